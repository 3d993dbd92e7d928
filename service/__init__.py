"""Holdfast: hands out a limited number of tickets to a crowd, never one too many.

A request goes down once and comes up once: ``app`` (the map of routes), ``handlers`` (parse,
call, answer), ``write_path`` or ``queries``, a file of ``sql/``, a row, JSON.
"""
