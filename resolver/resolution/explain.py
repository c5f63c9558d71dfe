"""Why an answer is what it is: every location, chosen, ranked or left out, with the reasons."""

from __future__ import annotations

import time
from typing import Any

from resolver.models import Owner
from resolver.registry import LocationView
from resolver.resolution.answer import ProbeResult
from resolver.resolution.image_resolver import Resolution
from resolver.resolution.ranking import (
    DEFAULT_PREFERENCES,
    ImageOwner,
    exclusion_reason,
    rank_reasons,
)


def explain(resolution: Resolution) -> dict[str, Any]:
    """The answer with one row for each location, owners first, in the order of their rank."""
    answer = resolution.answer
    ranked = {owner.name: (rank, owner) for rank, owner in enumerate(answer.owners, 1)}
    claims = {claim.number: claim for claim in resolution.claims}
    now = time.time()
    rows = [
        _row(resolution, view, ranked.get(view.name), claims.get(view.location.number), now)
        for view in resolution.context.table.by_name.values()
    ]
    last = len(rows) + 1
    rows.sort(key=lambda row: (row["rank"] or last, row["location"]))
    return {**answer.as_json(), "detail": answer.detail, "locations": rows}


def _row(
    resolution: Resolution,
    view: LocationView,
    ranked: tuple[int, ImageOwner] | None,
    claim: Owner | None,
    now: float,
) -> dict[str, Any]:
    context = resolution.context
    doubt = view.coverage_problem(now)
    rank = None
    if ranked is not None:
        rank, owner = ranked
        verdict = "chosen" if rank == 1 else "ranked"
        reasons = rank_reasons(owner, context.preferences, context.home_region)
    elif claim is not None:
        verdict, reasons = "left out", [exclusion_reason(view, context.preferences)]
    elif not view.in_service:
        verdict = "left out"
        reasons = ["no claim", exclusion_reason(view, DEFAULT_PREFERENCES)]
    else:
        verdict = "not an owner"
        reasons = ["no claim", doubt or "its last sweep is complete and does not list the image"]
    if (probe := resolution.probes.get(view.location.number)) is not None:
        reasons.append(_probe_text(probe))
    if not view.location.vouches:
        reasons.append("does not vouch for what it lacks")
    return {
        "location": view.name,
        "verdict": verdict,
        "rank": rank,
        "reasons": reasons,
        "covered": not doubt,
    }


def _probe_text(probe: ProbeResult) -> str:
    if probe.owner is not None:
        return "asked, it has the image"
    if probe.absent and not probe.asked:
        age = time.monotonic() - probe.at
        return f"not asked: the index is complete up to {age:.1f} s ago and does not list the image"
    if probe.absent:
        return f"asked {time.monotonic() - probe.at:.1f} s ago, it does not have the image"
    return f"{'asked' if probe.asked else 'not asked'}: {probe.reason}"
