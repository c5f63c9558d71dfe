"""Makes calls with a Python client of openapi-generator. Runs in the environment of the generator.

Reads from standard input the URL, the token and the calls as JSON, and writes the status and data
of each response. An error that is none of the API ends it.
"""

from __future__ import annotations

import inspect
import json
import sys
import typing
from typing import Any

import urllib3
from openapi_client import ApiClient, ApiException, Configuration, api


def functions(client: ApiClient) -> dict[str, Any]:
    """The function of each operation."""
    found = {}
    for name, kind in vars(api).items():
        if inspect.isclass(kind) and name.endswith("Api"):
            instance = kind(client)
            for method, function in inspect.getmembers(instance, inspect.ismethod):
                if method.endswith("_with_http_info"):
                    found[method.removesuffix("_with_http_info")] = function
    return found


def with_body(function: Any, parameters: dict[str, Any], body: Any) -> dict[str, Any]:
    """The parameters with a body: text is called ``body``, an object by its type."""
    hints = typing.get_type_hints(function)
    if "body" in hints:
        return {**parameters, "body": body}
    del hints["return"]
    for name, hint in hints.items():
        for kind in (hint, *typing.get_args(hint)):
            if hasattr(kind, "from_json"):
                return {**parameters, name: kind.from_json(json.dumps(body))}
    raise TypeError(f"{function.__name__} takes no body")


def plain(data: Any) -> Any:
    if isinstance(data, list):
        return [plain(item) for item in data]
    return data.to_dict() if hasattr(data, "to_dict") else data


def main() -> None:
    url, token, calls = json.load(sys.stdin)
    configuration = Configuration(host=url, access_token=token)
    configuration.retries = urllib3.Retry(redirect=0, raise_on_redirect=False)
    results: dict[str, Any] = {}
    with ApiClient(configuration) as client:
        by_operation = functions(client)
        for operation, _, parameters, body in calls:
            sent = results["export_index"][1] if operation == "import_index" else body
            function = by_operation[operation]
            given = parameters if sent is None else with_body(function, parameters, sent)
            try:
                response = function(**given)
                results[operation] = [response.status_code, plain(response.data)]
            except ApiException as error:
                results[operation] = [error.status, plain(error.data)]
    json.dump(results, sys.stdout, default=str)


main()
