"""The board of problems: what `GET /status` lists."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from resolver.problems import Problem, ProblemBoard


def problem(code: str, since: float = 0.0, location: str = "") -> Problem:
    return Problem(code=code, text="a text", action="an action", since=since, location=location)


def test_problems_of_all_sources_come_oldest_first() -> None:
    board = ProblemBoard()
    board.add_source(lambda: [problem("new", since=200.0)])
    board.add_source(lambda: [problem("old", since=100.0), problem("middle", since=150.0)])
    assert [found.code for found in board.current()] == ["old", "middle", "new"]


def test_a_problem_without_a_time_has_that_of_the_first_call() -> None:
    board = ProblemBoard()
    found = [problem("lag", location="one")]
    board.add_source(lambda: found)
    before = time.time()
    (first,) = board.current()
    assert before <= first.since <= time.time()
    found.append(problem("lag", location="two"))
    assert {p.location: p.since for p in board.current()}["one"] == first.since
    found.clear()
    assert board.current() == []
    found.append(problem("lag", location="one"))
    (again,) = board.current()
    assert again.since >= first.since


def test_a_source_that_fails_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[Problem]:
        yield problem("half", since=1.0)
        raise KeyError("bug")

    board = ProblemBoard()
    board.add_source(broken)
    board.add_source(lambda: [problem("other", since=1.0)])
    assert [found.code for found in board.current()] == ["other", "internal-error"]
    assert "bug" in caplog.text


def test_a_fault_of_a_location_is_one_problem_with_what_follows_from_it() -> None:
    def found() -> Iterator[Problem]:
        for code, since in (("cannot-vouch", 100.0), ("poll-failing", 300.0), ("conflict", 1.0)):
            what_follows = {"consequence": f"So {code}.", "remedy": f"Or mend {code}."}
            yield replace(problem(code, since, "one"), **what_follows)
        yield problem("cannot-vouch", 50.0, "two")
        yield problem("cannot-vouch", 60.0)

    board = ProblemBoard()
    board.add_source(found)
    board.add_source(lambda: [problem("sweep-failing", 200.0, "one")])
    assert [(p.code, p.location, p.includes) for p in board.current()] == [
        ("conflict", "one", ()),
        ("cannot-vouch", "two", ()),
        ("cannot-vouch", "", ()),
        ("sweep-failing", "one", ("poll-failing", "cannot-vouch")),
    ]
    merged = board.current()[-1]
    assert merged.text == "a text So poll-failing. So cannot-vouch."
    assert merged.action.endswith("Or mend poll-failing. Or mend cannot-vouch.")
    assert merged.since == 100.0
