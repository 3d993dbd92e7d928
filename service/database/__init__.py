"""The database: connections, the statements of ``sql/``, queries, pipelines, migrations, grants.

This package imports only the modules directly in ``service``. It never imports ``write_path`` or
``web``: it does not depend on HTTP.
"""
