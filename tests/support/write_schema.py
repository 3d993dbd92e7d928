"""Rewrites docs/reference/schema.sql: ``python -m tests.support.write_schema``."""

from service.database.migrations import migrate
from service.database.statements import load_statements
from service.embedded.postgres import EmbeddedPostgres
from service.settings import resource
from service.temporary import TMP, TemporaryFolder, remove_abandoned_folders
from tests.support.database import Database
from tests.support.schema import DUMP, dump_schema

remove_abandoned_folders()
with TemporaryFolder.create("schema", TMP) as folder:
    folder.path.chmod(0o755)
    with EmbeddedPostgres(folder.path) as postgres:
        migrate(str(postgres.dsn), load_statements(resource("sql")))
        DUMP.write_text(dump_schema(Database(str(postgres.dsn))))
