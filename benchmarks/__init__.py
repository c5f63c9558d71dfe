"""The resolver side by side with its peers. Each module is one command that prints its tables:

``python -m benchmarks.index``, ``python -m benchmarks.sweep`` and ``python -m benchmarks.bulk``.
"""
