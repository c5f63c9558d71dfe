"""Hooks of schemathesis, which loads this file by ``schemathesis.toml``."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, letter_case: Any, kwargs: dict[str, Any]) -> None:
    """A redirect is the answer; what it leads to is not ours."""
    kwargs["allow_redirects"] = False
