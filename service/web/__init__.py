"""HTTP: routes, endpoints, handlers and responses, on top of uvicorn and Starlette.

``protocol`` extends uvicorn; ``cors`` and ``resources`` extend Starlette.

Imports ``write_path``, ``database`` and the flat modules, which are those directly in ``service``;
never ``embedded``, ``cli``, ``app`` or ``serving``.
"""
