"""Imports structlog without Rich, for the process that serves.

Where Rich is installed, structlog imports it, and Pygments with it, for tracebacks in colour: 3 MiB
for each process. Our logs have none (`logs.configure`). Rich is here for the tables of the other
commands, which import it later.
"""

from __future__ import annotations

from resolver.optional_packages import without_package

with without_package("rich"):
    import structlog  # noqa: F401
