"""Settings without their secrets, to be shown."""

from __future__ import annotations

import re


def mask_url(url: str) -> str:
    """A Redis URL with its passwords masked: those before the host and those in the query."""
    url = re.sub(r"([?&](?:ssl_|sentinel_)?password=)[^&#]*", r"\1***", url)
    scheme, mark, rest = url.partition("://")
    login, at, hosts = rest.rpartition("@")
    if not at:
        return url
    return f"{scheme}{mark}{login.partition(':')[0]}:***@{hosts}"
