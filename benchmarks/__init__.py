"""The resolver compared with its peers, under load, under attack and over time.

Each of these prints its tables: ``python -m benchmarks.gateway``, ``.index``, ``.grow``,
``.sweep``, ``.bulk``, ``.remove``, ``.registry``, ``.hostile``, ``.soak``, ``.freshness`` and
``.profile_layers``. ``--help`` says what they measure.
"""
