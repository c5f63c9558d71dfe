"""One API call: the request, its caller, and what that caller may see and change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from resolver.standin.answers import fail
from resolver.standin.image import Image
from resolver.standin.image_store import Images


@dataclass(frozen=True, slots=True)
class Caller:
    """The project and role that a token stands for."""

    project: str
    admin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One API call, as handlers get it."""

    request: web.Request
    caller: Caller
    images: Images
    old: bool
    """Whether the server is Glance 15."""
    page_default: int
    """Images on a page without `limit`."""
    page_cap: int
    """Images on a page at most."""

    def sees(self, image: Image) -> bool:
        """Whether the caller may see the image."""
        member = image.visibility == "shared" and self.caller.project in image.members
        return self.owns(image) or member or image.visibility in {"public", "community"}

    def owns(self, image: Image) -> bool:
        """Whether the caller may change the image."""
        return self.caller.admin or image.owner == self.caller.project

    def marker(self) -> Image | None:
        """The image that the page starts after; None for the first page."""
        if (image_id := self.request.query.get("marker")) is None:
            return None
        image = self.images.get(image_id)
        if image is None or (image.deleted and not self.caller.admin):
            fail(400, f"No image found with ID {image_id}")
        if not self.sees(image):
            fail(403, f"Forbidding request, image {image_id} not visible")
        return image

    def limit(self) -> int:
        """How many images the page may have."""
        try:
            limit = int(self.request.query.get("limit", self.page_default))
        except ValueError:
            fail(400, "limit param must be an integer")
        if limit < 0:
            fail(400, "limit param must be positive")
        return min(limit, self.page_cap)

    async def body(self, expected: type = dict) -> Any:
        """The request's JSON body, which must be of the expected type."""
        try:
            body = await self.request.json()
        except ValueError:
            fail(400, "Malformed JSON in request body.")
        if not isinstance(body, expected):
            fail(400, f"Request body must be a JSON {expected.__name__}.")
        return body

    def link(self, path: str) -> str:
        """A URL for `Location`, without the prefix, which only the proxy in front knows."""
        return f"{self.request.scheme}://{self.request.host}{path}"
