"""Random and malformed input: each ends in an answer or a clean error, and nothing is lost.

``pytest tests/fuzz`` runs a bounded number of examples; ``pytest tests/fuzz
--hypothesis-profile=long`` ten times as many, in a quarter of an hour. Both print how many ran.
"""
