"""Holdfast sells a limited number of tickets to a crowd, and never one too many.

``app`` builds the application. A request goes through ``web`` (route, validation, handler), then
``write_path`` for a change of tickets or ``database.queries`` for anything else, to a statement of
``sql/``. Its rows come back as the types of ``rows``, and ``web.responses`` renders them as JSON.

The modules directly in this package are called the flat modules.
"""
