"""Settings from environment variables."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from resolver.setting_names import PREFIX, is_service_variable


class Environment(EnvSettingsSource):
    """The environment without the variables that a container platform makes."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        if isinstance(value, str) and is_service_variable(PREFIX + field_name, value):
            value = None
        return value, key, is_complex
