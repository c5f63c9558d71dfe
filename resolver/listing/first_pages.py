"""What first pages of listings had to ask, so that the same page is read in one go the next time.

A `next` link has the questions of its page. A first page has no link, but many clients read the
same ones again and again.
"""

from __future__ import annotations

from collections import OrderedDict

from resolver.listing.markers import Questions
from resolver.listing.query import Params

PAGES = 256
"""First pages that are remembered: at most 64 ids and a query of 8 KB each."""

FirstPage = tuple[Params, tuple[int, ...]]
"""The parameters of a listing, and the numbers of its locations, best first."""


class FirstPages:
    """The questions of the first pages that were read last, by anybody. They are guesses: what a
    client may see is in the answers, which are asked for with its own token."""

    def __init__(self) -> None:
        self._questions: OrderedDict[FirstPage, Questions] = OrderedDict()

    def get(self, page: FirstPage) -> Questions:
        return self._questions.get(page, Questions())

    def put(self, page: FirstPage, questions: Questions) -> None:
        self._questions[page] = questions
        self._questions.move_to_end(page)
        if len(self._questions) > PAGES:
            self._questions.popitem(last=False)
