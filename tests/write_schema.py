"""Writes docs/reference/schema.sql anew: ``python -m tests.write_schema``."""

import tempfile
from pathlib import Path

from service.embedded import EmbeddedPostgres
from service.migrations import migrate
from service.settings import resource
from service.statements import load_statements
from tests.harness import Database
from tests.test_schema_documents import DUMP, dumped

with tempfile.TemporaryDirectory(prefix="holdfast-schema-", dir="/tmp") as folder:
    Path(folder).chmod(0o755)
    with EmbeddedPostgres(Path(folder)) as postgres:
        migrate(str(postgres.dsn), load_statements(resource("sql")))
        DUMP.write_text(dumped(Database(str(postgres.dsn))))
