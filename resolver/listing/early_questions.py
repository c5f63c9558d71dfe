"""Questions about a page's rows before all locations have sent theirs.

Which images are on a page is known when all locations have answered. Were their better owners asked
only then, a page with an image of the slowest location would take twice that location's time. So
what an earlier page expected is asked at the beginning, and the rest when the fastest locations
have answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType

from resolver.listing.markers import Questions
from resolver.listing.owners import DrawnRow, ImageOwners

WAIT_SECONDS = 0.005
"""From a location's rows until their owners are asked: others that answer at almost the same time
show which of them cannot be on the page, and list some of the images themselves."""


class EarlyQuestions:
    """Asks about the rows that are likely to be on the page, as they become known.

    A context manager: questions that are open at its end are dropped.
    """

    def __init__(self, owners: ImageOwners, likely_rows: Callable[[], Sequence[DrawnRow]]) -> None:
        self._owners = owners
        self._likely_rows = likely_rows
        self._timer: asyncio.TimerHandle | None = None
        self._asking: list[asyncio.Task[None]] = []

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop_waiting()
        for task in self._asking:
            if not task.cancel() and not task.cancelled():
                task.exception()  # the page has an error of its own

    def rows_arrived(self) -> None:
        """Some location has answered, and others have not."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self._ask)

    def ask_expected(self, questions: Questions) -> None:
        """Asks what an earlier page expected, before any rows have arrived."""
        self._asking.append(asyncio.create_task(self._owners.ask_expected(questions.ids)))

    def ask(self, rows: Sequence[DrawnRow]) -> None:
        """Asks about these rows now, as far as it has not been done."""
        self._asking.append(asyncio.create_task(self._owners.ask_early(rows)))

    async def wait_for_answers(self) -> None:
        """Waits for the answers to all questions.

        Raises:
            ResolverError: a location failed, and the client wants all.
        """
        self._stop_waiting()
        await asyncio.gather(*self._asking)
        self._asking.clear()

    def _ask(self) -> None:
        self._timer = None
        self.ask(self._likely_rows())

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
