"""Shared helpers of the tests: databases, services, clients and tools. No tests."""
