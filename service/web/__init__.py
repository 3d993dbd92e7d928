"""HTTP: routes, endpoints, handlers, responses, and what uvicorn and Starlette need around them.

Imports ``write_path``, ``database`` and the flat modules; never ``embedded``, ``cli``, ``app`` or
``serving``.
"""
