"""Benchmarks of the service against alternatives, run with ``python -m tests.benchmarks``."""
