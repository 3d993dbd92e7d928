"""The embedded PostgreSQL: finds its programs, starts it, and stops it with its parent process.

Imports nothing else of ``service``.
"""
