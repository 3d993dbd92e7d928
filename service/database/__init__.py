"""The database: connections, the statements of ``sql/``, queries, pipelines, migrations, grants.

Imports only the flat modules; knows nothing of HTTP and never imports ``write_path`` or ``web``.
"""
