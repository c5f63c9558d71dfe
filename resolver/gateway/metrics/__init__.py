"""Metrics of one process, and of several together."""
