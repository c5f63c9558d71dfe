"""Makes calls with a client of openapi-python-client. Runs in the environment of the generator.

Reads from standard input the URL, the token and the calls as JSON, and writes the status and data
of each response. An error that is none of the API ends it.
"""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import sys
import typing
from typing import Any

import out.api
from out import AuthenticatedClient
from out.types import File


def functions() -> dict[str, Any]:
    """The function of each operation."""
    found = {}
    for module in pkgutil.walk_packages(out.api.__path__, "out.api."):
        if not module.ispkg:
            loaded = importlib.import_module(module.name)
            found[module.name.rpartition(".")[2]] = loaded.sync_detailed
    return found


def typed(function: Any, body: Any) -> Any:
    """A body as the function wants it."""
    wanted = typing.get_type_hints(function)["body"]
    for kind in (wanted, *typing.get_args(wanted)):
        if isinstance(body, dict) and hasattr(kind, "from_dict"):
            return kind.from_dict(body)
        if isinstance(body, str) and kind is File:
            return File(payload=io.BytesIO(body.encode()))
    return body


def plain(data: Any) -> Any:
    if isinstance(data, list):
        return [plain(item) for item in data]
    return data.to_dict() if hasattr(data, "to_dict") else data


def main() -> None:
    url, token, calls = json.load(sys.stdin)
    client = AuthenticatedClient(base_url=url, token=token, raise_on_unexpected_status=True)
    by_operation, results = functions(), {}
    for operation, _, parameters, body in calls:
        sent = results["export_index"][1] if operation == "import_index" else body
        function = by_operation[operation]
        given = {} if sent is None else {"body": typed(function, sent)}
        response = function(client=client, **parameters, **given)
        data = response.parsed
        if data is None and operation == "export_index":
            data = response.content.decode()
        results[operation] = [int(response.status_code), plain(data)]
    json.dump(results, sys.stdout, default=str)


main()
