"""The model's own checks, where an answer races with a change."""

from __future__ import annotations

import math
import time

from resolver.models import State, format_id
from resolver.resolution import Preferences
from tests.model.answer_checks import Question, ReceivedAnswer, check_answer
from tests.model.world import ModelServer, Registration, World

IMAGE = bytes(range(16))


async def test_a_location_that_is_being_registered_may_be_named() -> None:
    """A gateway may know of it before the one that registers it has its answer from Redis."""
    server = ModelServer("a")
    server.create(IMAGE, 0, b"bytes")
    world = World([server])
    world.being_registered["one"] = Registration(
        0, server, State.ACTIVE, time.monotonic(), math.inf
    )
    question = Question(IMAGE, 0, Preferences(), is_up_to_date=True, down=set(), claimed=set())
    answer = ReceivedAnswer(
        "found",
        {"one": f"http://one.example/v1/images/{format_id(IMAGE)}"},
        missing=[],
        facts={"one": {"status": "active", "digest": None}},
        conflict=False,
    )
    assert list(check_answer(world, question, answer)) == []
    world.being_registered.clear()
    (problem,) = check_answer(world, question, answer)
    assert problem == "it names one, which is not registered and in service"


async def test_a_location_that_is_being_removed_need_not_be_named() -> None:
    server = ModelServer("a")
    server.create(IMAGE, 0, b"bytes")
    world = World([server])
    begun = time.monotonic()
    world.change("one", Registration(1, server, State.ACTIVE, begun, begun))
    question = Question(IMAGE, 0, Preferences(), is_up_to_date=True, down=set(), claimed=set())
    question.oldest = question.begun
    absent = ReceivedAnswer("absent", {}, missing=[], facts={}, conflict=False)
    assert list(check_answer(world, question, absent)) == ["absent, and it is at one all the time"]
    world.being_removed.add("one")
    assert list(check_answer(world, question, absent)) == []
