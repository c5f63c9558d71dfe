"""Hooks of schemathesis, which loads this file by ``schemathesis.toml``."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Follows no redirect: the target is not a part of this API."""
    kwargs["allow_redirects"] = False
