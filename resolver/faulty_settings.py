"""Settings of which some are wrong, for those who look for what is wrong."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from resolver.errors import SettingsError
from resolver.setting_names import PREFIX
from resolver.settings import Settings


class _LenientSettings(Settings):
    """Takes no notice of unknown names in the file."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)


def settings_despite_faults() -> tuple[Settings, frozenset[str]]:
    """The settings of this environment for somebody who looks for what is wrong with them: unknown
    names are left out, and those with a wrong value, which come too, have their default.

    Raises:
        SettingsError: they cannot be read at all.
    """
    defaults: dict[str, Any] = {}
    while True:
        try:
            return _LenientSettings(**defaults), frozenset(defaults)
        except ValidationError as error:
            wrong = {str(fault["loc"][0]) for fault in error.errors() if fault["loc"]}
            if not wrong - defaults.keys():
                raise SettingsError("settings contradict each other") from error
            fields = Settings.model_fields
            defaults |= {name: fields[name].default for name in wrong if name in fields}
        except (ValueError, OSError, RecursionError) as error:
            raise SettingsError(f"RESOLVER_CONFIG cannot be read: {error}") from error
