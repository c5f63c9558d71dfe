"""``glance-resolver locations sweep``: sweeps a location now, and shows the progress."""

from __future__ import annotations

import time
from typing import Any

import click

from resolver.cli.answer_shapes import LOCATION_SWEEP, STATUS
from resolver.cli.gateway_client import Gateway, GatewayError, gateway_options, segment
from resolver.cli.location_completing import existing_location
from resolver.cli.output import counted

POLL_SECONDS = 0.5
"""Between two requests for the progress of a sweep."""


@click.command()
@existing_location
@click.option(
    "--confirm-shrink",
    is_flag=True,
    help="Let it release more images than RESOLVER_SHRINK_GUARD allows.",
)
@click.option("--wait", is_flag=True, help="Wait until it has ended, and show progress.")
@gateway_options
def sweep(name: str, confirm_shrink: bool, wait: bool, url: str, token: str | None) -> None:
    """Sweep a location now."""
    gateway = Gateway(url, token)
    path = f"/locations/{segment(name)}"
    before = gateway.call("GET", path, shape=LOCATION_SWEEP)["sweep"]
    gateway.call("POST", f"{path}/sweep", {"confirm_shrink": confirm_shrink}, shape=dict)
    if not wait:
        click.echo(f"{name}: sweep requested; `locations show {name}` shows its progress")
        return
    result = _wait_for_sweep(gateway, name, before)
    click.echo(
        f"{name}: {counted(result['images'], 'image')}, {result['claimed']} claimed, "
        f"{result['released']} released"
    )


def _wait_for_sweep(gateway: Gateway, name: str, before: dict[str, Any]) -> dict[str, Any]:
    """Waits for the end of a sweep, with progress on a terminal.

    Args:
        gateway: where it was requested.
        name: the location's.
        before: the location's ``sweep`` from before the request.

    Returns:
        the location's ``sweep`` at the end.

    Raises:
        GatewayError: it failed; the message says why.
    """
    from rich.console import Console  # noqa: PLC0415
    from rich.status import Status  # noqa: PLC0415

    console = Console(stderr=True)
    with Status(f"{name}: waiting for the indexer", console=console) as status:
        progress = SweepProgress()
        while True:
            path = f"/locations/{segment(name)}"
            state: dict[str, Any] = gateway.call("GET", path, shape=LOCATION_SWEEP)["sweep"]
            if state["failed"] != before["failed"] and state["error"]:
                raise GatewayError(f"{name}: {state['error']}")
            if state["ended"] != before["ended"]:
                return state
            if not state["running"]:
                _check_indexer(gateway, name)
            else:
                text = progress.describe(state["running"], time.monotonic())
                status.update(f"{name}: {text}")
            time.sleep(POLL_SECONDS)


def _check_indexer(gateway: Gateway, name: str) -> None:
    """Raises GatewayError where no indexer is running, so that the sweep would never begin."""
    for problem in gateway.call("GET", "/status", shape=STATUS)["problems"]:
        if problem["code"] == "no-indexer":
            raise GatewayError(
                f"{name}: the sweep is requested, but {_lower(problem['text'])} {problem['action']}"
            )


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class SweepProgress:
    """Speed and remaining time of a running sweep.

    A listing is sorted by id, and ids are evenly distributed. So the last id that was read shows
    which part of the listing is done.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int, float] | None = None
        """Time, images and done part at the first call."""

    def describe(self, running: dict[str, Any], now: float) -> str:
        """``12,000 images, 3,300 a second, 4 s left``, as far as it is known.

        Args:
            running: ``images``, their number so far, and ``front``, the last id or None.
            now: seconds on a monotonic clock.
        """
        images = running["images"]
        done = int((running["front"] or "0")[:8], 16) / 2**32
        if self._first is None:
            self._first = now, images, done
        first_time, first_images, first_done = self._first
        seconds = now - first_time
        text = f"{images:,} images"
        if seconds > 0 and images > first_images:
            text += f", {(images - first_images) / seconds:,.0f} a second"
        if seconds > 0 and done > first_done:
            text += f", {(1 - done) * seconds / (done - first_done):,.0f} s left"
        return text
