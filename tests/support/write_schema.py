"""Rewrites docs/reference/schema.sql: ``python -m tests.support.write_schema``."""

import tempfile
from pathlib import Path

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.settings import resource
from tests.support.database import Database
from tests.support.schema import DUMP, dump_schema

with tempfile.TemporaryDirectory(prefix="holdfast-schema-", dir="/tmp") as folder:
    Path(folder).chmod(0o755)
    with EmbeddedPostgres(Path(folder)) as postgres:
        migrate(str(postgres.dsn), load_statements(resource("sql")))
        DUMP.write_text(dump_schema(Database(str(postgres.dsn))))
