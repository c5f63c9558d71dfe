"""The resolver side by side with its peers. Each module is one command that prints its tables:

``python -m benchmarks.index``, ``.sweep``, ``.bulk``, ``.remove``, ``.gateway`` and ``.where``.
"""
