"""Benchmarks: what the service is measured against. No test of the suite."""
