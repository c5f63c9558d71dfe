"""The gateway and its commands as operators start them: processes."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.glance.clients import Ran, clean_env, run_program
from tests.support.glance import ADMIN_TOKEN, Answer, call
from tests.support.process import ServerProcess

ROOT = Path(__file__).resolve().parents[2]
SWEEP_TIMEOUT = 60.0
"""Seconds from the gateway's start to the end of its first sweeps."""
OPERATOR_TOKEN = "secret"


class Gateway(ServerProcess):
    """``python -m resolver serve`` on a free port. `start` waits for the sweep of `locations`."""

    name = "gateway"
    start_timeout = SWEEP_TIMEOUT
    working_directory = ROOT

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        locations: Sequence[str],
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.env = dict(env or {})
        self.arguments = arguments
        self.locations = locations

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        serve = [sys.executable, "-m", "resolver", "serve", "--port", str(self.port)]
        return [*serve, *self.arguments]

    def environment(self) -> dict[str, str]:
        settings = {
            "RESOLVER_REDIS_URL": "memory:",
            "RESOLVER_ADMIN_TOKENS": f"op={OPERATOR_TOKEN}",
            "GLANCE_TOKEN": ADMIN_TOKEN,
        }
        return clean_env(self.directory, {**settings, **self.env})

    def is_ready(self) -> bool:
        try:
            if self.get("/livez").status != 200:
                return False
            answers = [self.admin(f"/locations/{name}") for name in self.locations]
        except http.client.HTTPException:
            return False
        return all(a.status == 200 and a.json()["sweep"]["ended"] is not None for a in answers)

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Answer:
        """As a user with a token; redirects are not followed."""
        return call(self.url, "GET", target, None, {"X-Auth-Token": ADMIN_TOKEN, **(headers or {})})

    def post(self, target: str, body: Any) -> Answer:
        return call(self.url, "POST", target, body)

    def admin(self, target: str, method: str = "GET") -> Answer:
        """As an operator."""
        return call(self.url, method, target, None, {"Authorization": f"Bearer {OPERATOR_TOKEN}"})

    def operator(self, *arguments: str, token: str = OPERATOR_TOKEN) -> Ran:
        """Runs a command of ours as an operator does, on a machine with the gateway's clouds.yaml.
        Its standard input is empty."""
        env = {"RESOLVER_URL": self.url, "RESOLVER_TOKEN": token, **self.env}
        command = [sys.executable, "-m", "resolver", *arguments]
        return run_program(command, clean_env(self.directory, env), ROOT)
