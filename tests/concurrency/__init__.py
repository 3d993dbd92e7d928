"""Concurrent requests, and crashes of processes and connections."""
