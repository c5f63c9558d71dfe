"""Which variables of the environment are settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from resolver.suggestions import did_you_mean

PREFIX = "RESOLVER_"

NOT_SETTINGS = frozenset(
    {
        *("RESOLVER_CONFIG", "RESOLVER_URL", "RESOLVER_TOKEN", "RESOLVER_TOKEN_FILE"),
        "RESOLVER_ALLOW_HTTP",
    }
)
"""Variables with this prefix that are not settings of the server: the name of the TOML file, and
those of the operator commands."""

FAULT_TEXTS = {
    "float_parsing": "it must be a number, without a unit (times are in seconds)",
    "int_parsing": "it must be a whole number, without a unit",
    "bool_parsing": "it must be true or false",
}
"""What is wrong with a value, by pydantic's type of the fault."""


def fault_text(kind: str, message: str) -> str:
    """What is wrong with a value, by pydantic's type of the fault and its message."""
    return FAULT_TEXTS.get(kind, message.removeprefix("Value error, "))


_SERVICE_NAME = re.compile(
    r"RESOLVER_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?"
    r"|PORT_[0-9]+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO|START|END|PORT_START|PORT_END))?|ENV_.+)",
    re.ASCII,
)
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://[^/]+", re.ASCII)


def is_service_variable(name: str, value: str) -> bool:
    """Whether Kubernetes or a link of Docker makes this variable for a service called ``resolver``
    or ``resolver-…``, so that it is not a setting.

    Some of their names, such as RESOLVER_PORT, are settings too. There the value decides: theirs is
    ``tcp://ADDRESS:PORT``, or ``/CONTAINER/ALIAS`` in ``…_NAME``.
    """
    name = name.upper()
    return bool(
        _SERVICE_NAME.fullmatch(name)
        or (name.endswith("_PORT") and _SERVICE_URL.fullmatch(value))
        or (name.endswith("_NAME") and re.fullmatch(r"/[^/]+/[^/]+", value))
    )


def unknown_names(fields: Iterable[str]) -> list[str]:
    """The variables that begin like settings and are not among these fields, each with a similar
    name if there is one."""
    known = {name.upper() for name in fields}
    return sorted(
        f"{name}{did_you_mean(name.upper().removeprefix(PREFIX), known, PREFIX)}"
        for name, value in os.environ.items()
        if name.upper().startswith(PREFIX)
        and name.upper().removeprefix(PREFIX) not in known
        and name.upper() not in NOT_SETTINGS
        and not is_service_variable(name, value)
    )
