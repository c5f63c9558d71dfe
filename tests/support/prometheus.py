"""A real Prometheus for tests: a process on loopback that scrapes one gateway every second."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import yaml

from tests.support.process import ServerProcess, find_program

PACKAGE = "prometheus"


class Prometheus(ServerProcess):
    """Scrapes the gateway at a URL as the job ``glance-resolver``, and evaluates rules."""

    name = "prometheus"

    def __init__(self, gateway_url: str, rules: Path) -> None:
        super().__init__()
        self._target = urlsplit(gateway_url).netloc
        self._rules = rules

    def prepare(self) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(self._rules)],
            "scrape_configs": [
                {"job_name": "glance-resolver", "static_configs": [{"targets": [self._target]}]}
            ],
        }
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(config))

    def command(self) -> Sequence[str]:
        return [
            find_program("prometheus", PACKAGE),
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as reply:
            return bool(reply.status == 200)

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API. Raises HTTPError with a query that is not valid."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression as of now."""
        rows: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return rows
