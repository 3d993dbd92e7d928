"""The embedded PostgreSQL: finds its programs, starts it, and stops it with the service.

Of ``service`` it imports only ``temporary``.
"""
