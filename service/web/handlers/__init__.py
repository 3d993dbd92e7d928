"""Handlers: one function for each operation of the API."""
