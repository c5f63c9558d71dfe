"""What python-openstackclient asks of a plugin. The command is in `locate_command`."""

from __future__ import annotations

import argparse

DEFAULT_API_VERSION = "1"
API_VERSION_OPTION = "os_image_resolver_api_version"
API_NAME = "image_resolver"
API_VERSIONS = ("1",)


def build_option_parser(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Adds no global options."""
    return parser
