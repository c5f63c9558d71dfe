"""Answers and errors, in the formats of Glance."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NoReturn

from aiohttp import web


class Fault(Exception):
    """An error answer. Handlers raise it; the server turns it into a response."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str]) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers

    def response(self) -> web.Response:
        """The HTML page that webob, and so Glance, makes of an error."""
        code = f"{self.status} {HTTPStatus(self.status).phrase}"
        text = (
            f"<html>\n <head>\n  <title>{code}</title>\n </head>\n <body>\n  <h1>{code}</h1>\n"
            f"  {html.escape(self.text)}<br /><br />\n\n\n\n </body>\n</html>"
        )
        return html_page(text, self.status, self.headers)


def fail(status: int, text: str, **headers: str) -> NoReturn:
    """Answers with an error. Raises Fault."""
    raise Fault(status, text, headers)


def forbid(action: str) -> NoReturn:
    """Answers that policy forbids the action. Raises Fault."""
    fail(403, f"You are not authorized to complete {action} action.")


def html_page(
    text: str = "", status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """HTML. v1 uses this content type for empty answers too."""
    return web.Response(text=text, status=status, headers=headers, content_type="text/html")


def json_value(value: Any, *, status: int = 200, **headers: str) -> web.Response:
    """A value, encoded as JSON."""
    return json_text(json.dumps(value), status, **headers)


def json_text(text: str, status: int = 200, **headers: str) -> web.Response:
    """JSON that is encoded already."""
    # Bytes, as `text` would add a charset that Glance does not name.
    content_type = "application/json"
    return web.Response(
        body=text.encode(), status=status, headers=headers, content_type=content_type
    )


def image_data(data: bytes, headers: Mapping[str, str]) -> web.Response:
    """The data of an image."""
    return web.Response(body=data, headers=headers, content_type="application/octet-stream")
