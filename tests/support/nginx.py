"""The part of an nginx configuration that all tests share."""

from __future__ import annotations

from pathlib import Path


def nginx_config(directory: Path, http: str) -> str:
    """One process in the foreground, with its files in ``directory`` and this ``http`` block."""
    temporary_paths = "".join(
        f"    {kind}_temp_path {directory};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
{temporary_paths}{http}
}}
"""


def nginx_arguments(directory: Path, config_file: Path) -> list[str]:
    return ["-c", str(config_file), "-p", str(directory)]
