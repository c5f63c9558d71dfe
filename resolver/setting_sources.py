"""Where settings come from: the environment, and the TOML file that it names."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from resolver.errors import SettingsError
from resolver.setting_names import PREFIX, is_service_variable
from resolver.text_files import read_bytes

MAX_FILE_BYTES = 1024 * 1024


def settings_file() -> str:
    """The path of the TOML file; empty where there is none."""
    return os.environ.get("RESOLVER_CONFIG", "")


def read_file() -> dict[str, Any]:
    """What the TOML file has.

    Raises:
        SettingsError: it cannot be read.
    """
    file = settings_file()
    if not file:
        return {}
    if not Path(file).is_file():
        raise SettingsError(f"RESOLVER_CONFIG names {file}, which is not a file")
    try:
        return tomllib.loads(read_bytes(Path(file), MAX_FILE_BYTES).decode())
    except RecursionError as error:
        raise SettingsError(f"RESOLVER_CONFIG {file}: it is nested too deeply") from error
    except (ValueError, OSError) as error:
        raise SettingsError(f"RESOLVER_CONFIG {file}: {error}") from error


def read_environment(names: Collection[str]) -> dict[str, str]:
    """The variables of these settings, by the names of the settings, without the variables that a
    container platform makes."""
    found = {}
    for variable, value in os.environ.items():
        name = variable.lower().removeprefix(PREFIX.lower())
        if (
            variable.upper().startswith(PREFIX)
            and name in names
            and not is_service_variable(variable, value)
        ):
            found[name] = value
    return found
