"""HTTP: routes, endpoints, handlers and responses, on top of uvicorn and Starlette.

``protocol`` extends uvicorn; ``cors`` and ``resources`` extend Starlette.

Imports ``write_path``, ``database`` and the flat modules: those directly in ``service``, except
``app`` and ``serving``. Never imports ``embedded`` or ``cli``.
"""
