"""The embedded PostgreSQL: finds its programs, starts it, and stops it with the service.

Imports nothing else of ``service``.
"""
