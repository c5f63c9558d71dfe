"""What answers are made of, errors too."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NoReturn

from aiohttp import web


class Fault(Exception):
    """An answer that is an error, thrown from wherever it is found out."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers

    def response(self) -> web.Response:
        """The page that webob makes of it."""
        code = f"{self.status} {HTTPStatus(self.status).phrase}"
        text = (
            f"<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  <h1>{code}</h1>\n"
            f"  {html.escape(self.text)}<br /><br />\n\n\n\n </body>\n</html>"
        )
        return html_page(text, self.status, self.headers)


def fail(status: int, text: str, **headers: str) -> NoReturn:
    """Answer with an error."""
    raise Fault(status, text, headers)


def forbid(action: str) -> NoReturn:
    """Answer that policy forbids the action."""
    fail(403, f"You are not authorized to complete {action} action.")


def html_page(
    text: str = "", status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """HTML, or the type of it over an empty body, as v1 answers."""
    return web.Response(text=text, status=status, headers=headers, content_type="text/html")


def json_value(value: Any, *, status: int = 200, **headers: str) -> web.Response:
    """A value as JSON."""
    return json_text(json.dumps(value), status, **headers)


def json_text(text: str, status: int = 200, **headers: str) -> web.Response:
    """JSON that is text already."""
    # Bytes, as `text` would add a charset that Glance does not name.
    kind = "application/json"
    return web.Response(body=text.encode(), status=status, headers=headers, content_type=kind)


def image_data(data: bytes, headers: Mapping[str, str]) -> web.Response:
    """The data of an image."""
    return web.Response(body=data, headers=headers, content_type="application/octet-stream")
