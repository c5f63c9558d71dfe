"""A location as one row of the table: its registration, its status, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from resolver.models import (
    Api,
    Health,
    Location,
    State,
    Status,
    api_versions,
    format_id,
    minor_version,
)
from resolver.registry.coverage import (
    GUARDED,
    FreshnessPolicy,
    coverage_problem,
    describe_coverage,
    proof_age,
)


@dataclass(frozen=True)
class LocationView:
    """A location with everything that an answer needs, computed once."""

    location: Location
    status: Status
    policy: FreshnessPolicy
    losses: int = 0
    """How often Redis may have lost claims by now."""
    refused: str = ""
    """Why the current settings forbid sending clients there, whatever its state is; empty if
    they may. See `resolver.registry.admission`."""

    @cached_property
    def in_service(self) -> bool:
        """Whether it is offered and asked: it is neither in maintenance nor refused."""
        return not self.refused and self.location.state is not State.MAINTENANCE

    @property
    def name(self) -> str:
        return self.location.name

    @cached_property
    def serves(self) -> tuple[bool, bool] | None:
        """Whether it serves (v1, v2); None while its versions are not known."""
        if self.location.api is not Api.AUTO:
            return self.location.api is Api.V1, self.location.api is Api.V2
        versions = self.versions
        return api_versions(versions) if versions else None

    @property
    def versions(self) -> tuple[str, ...]:
        """Glance's version ids, such as ``v2.15``; empty while they are not known."""
        return self.status.check.versions if self.status.check else ()

    @property
    def minor(self) -> int:
        """The highest N of the v2.N that it serves; -1 if none is known."""
        return minor_version(self.versions)

    @property
    def health(self) -> Health:
        return self.status.check.health if self.status.check else Health.UNKNOWN

    @cached_property
    def base(self) -> str:
        """The base URL that clients are sent to."""
        return self.location.base

    @cached_property
    def has_https(self) -> bool:
        """Whether clients reach it over https."""
        return self.base.startswith("https:")

    @cached_property
    def images_v1(self) -> str:
        """The URL that an image id is appended to, for v1."""
        return f"{self.base}/v1/images/"

    @cached_property
    def images_v2(self) -> str:
        """The URL that an image id is appended to, for v2."""
        return f"{self.base}/v2/images/"

    @cached_property
    def images_url(self) -> str:
        """The URL that an image id is appended to, for an API that the location serves today: v1 if
        it is served or the versions are not known, else v2."""
        return self.images_v1 if self.serves is None or self.serves[0] else self.images_v2

    def uri(self, image_id: bytes, letter_case: int = 0) -> str:
        """The identifier of an image at this location."""
        return self.images_v1 + format_id(image_id, letter_case)

    def url(self, image_id: bytes, letter_case: int = 0) -> str:
        """The URL of an image at this location that can be fetched today."""
        return self.images_url + format_id(image_id, letter_case)

    @property
    def sees_all(self) -> bool | None:
        """Whether the location's credential sees every image; None: not known."""
        if self.location.sees_all is not None:
            return self.location.sees_all
        return self.status.sweep.sees_all

    @property
    def health_is_current(self) -> bool:
        """Whether an indexer checks it."""
        return not self.policy.no_indexer()

    @property
    def scope_problem(self) -> str:
        """Why the location may have images that its credential does not see; empty if it cannot."""
        return scope_problem(self.sees_all, self.status.sweep.sees_all_why)

    @property
    def guard_problem(self) -> str:
        """Why the location's "no" about an image proves nothing, whatever its credential sees;
        empty if it may prove that the image is not there."""
        return GUARDED if self.status.sweep.guarded is not None else ""

    def coverage_problem(self, now: float, within: float | None = None) -> str:
        """Why the index may lack an image of this location; empty if it cannot. ``within``: what
        the index has must also be complete up to this many seconds ago.

        The text may be shown to anybody. It never contains what a server or a file said: that is in
        the sweep's ``error``, which only operators see.
        """
        problem = coverage_problem(
            self.status, self.policy, self.scope_problem, now, losses=self.losses
        )
        if not problem and within is not None and (age := self.proof_age(now)) > within:
            return f"what it has is known up to {age:.0f} s ago only"
        return problem

    def unasked_problem(self, now: float) -> str:
        """Why the index may lack an image of this location, which is not in service and so is not
        asked. Empty if an operator has put it into maintenance, it was swept as a whole once, and
        Redis has lost nothing since. Where only the settings refuse it, its users go on, so it must
        be covered."""
        if self.location.state is not State.MAINTENANCE:
            problem = self.coverage_problem(now)
            return f"it is refused, and {problem}" if problem else ""
        where = "it is in maintenance"
        if self.status.sweep.ended is None:
            return f"{where}, and was never swept"
        if self.scope_problem:
            return f"{where}, and {self.scope_problem}"
        if self.status.sweep.listing_gap:
            return f"{where}, and {self.status.sweep.listing_gap}"
        if self.status.sweep.losses != self.losses:
            return f"{where}, and Redis may have lost claims since its last sweep began"
        return ""

    def proof_age(self, now: float) -> float:
        """Seconds since the moment up to which the index has every image of this location, if it is
        covered."""
        return proof_age(self.status, now)

    def coverage(self, now: float) -> dict[str, Any]:
        """How complete and how fresh the index is for this location, in words for anybody."""
        listens = bool(self.location.notifications)
        return describe_coverage(
            self.status,
            self.policy,
            self.scope_problem,
            now,
            losses=self.losses,
            listens=listens,
        )


def scope_problem(sees_all: bool | None, why: str) -> str:
    """Why it proves nothing that a credential does not see an image; empty if it proves that the
    image is not there.

    ``sees_all``: whether the credential sees every image; None: not known. ``why``: the reason.
    """
    if sees_all is False:
        return f"its credential does not see every image: {why or 'as registered (`sees_all`)'}"
    if sees_all is None:
        return f"whether its credential sees every image {why or 'is not known yet'}"
    return ""
