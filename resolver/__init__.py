"""glance-resolver: which OpenStack Glance server has this image?"""

from typing import Any


def __getattr__(name: str) -> Any:
    """``__version__``, read from the installed package only when needed, so that help is fast."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("glance-resolver")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"
