"""Random and malformed input: each ends in an answer or a clean error, and nothing is lost.

``pytest tests/fuzz`` runs a bounded number of examples; ``make fuzz`` runs ten times as many, again
and again for an hour. Both print how many ran. docs/security-tests.md has what they found.
"""
