"""What must be right when nothing has disturbed anybody for a while, and everything was swept."""

from __future__ import annotations

from resolver.errors import ImageDead, ImagePending, ImageUnknown, NoCounterpart
from resolver.gateway.api.image_reads import redirect_targets
from resolver.gateway.image_path import ImagePath
from resolver.image_facts import STATUSES
from resolver.models import format_id
from resolver.resolution import Answer, ImageOwner, Preferences
from resolver.services import Services
from tests.model.world import ImageLife, World


async def wrong_final_answer(world: World, services: Services) -> str:
    """What is wrong with the answer about some image, or with where it leads; empty if nothing."""
    for image_id in world.ids():
        answer = await services.resolver.resolve(image_id, Preferences())
        if not (wrong := _wrong_answer(world, answer)) and answer.owners:
            with_bytes = await services.resolver.resolve(image_id, Preferences(), needs_bytes=True)
            wrong = _wrong_redirects(world, answer, with_bytes)
        if wrong:
            return f"{image_id.hex()[:8]} {wrong}"
    return ""


def _wrong_answer(world: World, answer: Answer) -> str:
    current, image_id = world.current(), answer.image_id
    serving = [s for s in current.values() if s.in_service]
    offered = {owner.name for owner in answer.owners}
    elsewhere = {n for n, s in current.items() if not s.in_service and s.server.has(image_id)}
    owners = world.owners(image_id)
    outcome = "found" if owners else "unknown" if elsewhere or not serving else "absent"
    if (answer.outcome, offered) != (outcome, owners):
        found = f"{answer.outcome} {sorted(offered)} ({answer.source})"
        return f"is {found}, and should be {outcome} {sorted(owners)}"
    conflict = len({_comparable_bytes(world, image_id, name) for name in owners} - {b""}) > 1
    return "" if answer.conflict == conflict else f"has conflict {answer.conflict}"


def _comparable_bytes(world: World, image_id: bytes, name: str) -> bytes:
    """The image's bytes at a location, if its server has the hash that others have too."""
    server = world.current()[name].server
    return b"" if server.standin.old else server.lives[image_id].data


def _wrong_redirects(world: World, answer: Answer, with_bytes: Answer) -> str:
    """What is wrong with where clients are sent for an image's metadata and for its bytes: to an
    owner of no use where there is a usable one, or to two whose bytes differ."""
    image_id = answer.image_id

    def life(owner: ImageOwner) -> ImageLife:
        return world.current()[owner.name].server.lives[image_id]

    def first(answer: Answer, rest: str) -> ImageOwner:
        path = ImagePath("v2", image_id, 0, rest, "")
        return redirect_targets(answer, path, format_id(image_id))[0][0]

    is_usable = any(life(owner).status == "active" for owner in answer.owners)
    if is_usable and life(answer.owners[0]).status != "active":
        return f"is {life(answer.owners[0]).status} at its first owner, and active at another"
    try:
        data = first(with_bytes, "/file")
    except (ImagePending, ImageDead, ImageUnknown) as error:
        return f"has no bytes ({error.code}), and is active" if is_usable else ""
    if is_usable and life(data).status != "active":
        return f"has its bytes at {data.name}, where it is {life(data).status}"
    try:
        shown = first(answer, "")
    except NoCounterpart:
        return ""
    as_usable = STATUSES[life(shown).status] is STATUSES[life(data).status]
    if as_usable and life(shown).data != life(data).data:
        return f"is shown by {shown.name}, and has its bytes at {data.name}, which are others"
    return ""
