"""HTTP: routes, endpoints, handlers, responses, and the adaptations of uvicorn and Starlette.

Imports ``write_path``, ``database`` and the flat modules; never ``embedded``, ``cli``, ``app`` or
``serving``.
"""
