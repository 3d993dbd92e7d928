"""The database: connections, the statements of ``sql/``, queries, pipelines, migrations, grants.

Imports the flat modules alone; knows nothing of HTTP, and nothing of who calls it.
"""
