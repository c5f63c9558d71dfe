"""Random and malformed input: each ends in an answer or a clean error, and nothing is lost.

``pytest tests/fuzz`` runs a bounded number of examples; ``make fuzz`` sixty times as many, in an
hour. Both print how many ran. docs/security-tests.md has what they found.
"""
