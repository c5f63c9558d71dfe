"""The 404 for an image whose absence is remembered, rendered once."""

from __future__ import annotations

import secrets

from resolver.gateway.error_form import ErrorForm
from resolver.gateway.problem import error_of, error_reply
from resolver.gateway.reply import head_text
from resolver.resolution.answer import absent_by_probes, json_tail

SAMPLE_AGE = 86400.123
"""An age in seconds that no remembered answer has."""


class AbsentTemplate:
    """The 404 about an image that every location was asked about, without its id and age. It is
    what the handlers render for an answer whose id and age occur nowhere else."""

    def __init__(self, form: ErrorForm | None, vary: str) -> None:
        sample = absent_by_probes(secrets.token_bytes(16), "cache", SAMPLE_AGE)
        error = error_of(sample, vary)
        assert error is not None
        reply = error_reply(error, form)
        self.head = head_text(reply)
        sample_tail = json_tail("cache", SAMPLE_AGE)[2:-1]
        self._pieces = [part.split(sample.id) for part in reply.body.decode().split(sample_tail)]
        """The body, cut where its source and age stand, and each part cut where its id stands."""

    def render(self, text: str, age: float) -> bytes:
        """The body about the image whose id, dashed and in lower case, is ``text``."""
        parts = map(text.join, self._pieces)
        return json_tail("cache", age)[2:-1].join(parts).encode()
