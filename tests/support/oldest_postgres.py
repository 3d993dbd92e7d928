"""A PostgreSQL of the oldest supported version, for what differs between versions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.embedded.postgres import EmbeddedPostgres
from service.embedded.programs import OLDEST_MAJOR, system_programs
from tests.support.tools import report_missing


class OldestPostgres(EmbeddedPostgres):
    """A PostgreSQL of the oldest major version that the service runs on."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        (self._installed,) = [one for one in system_programs() if one.major == OLDEST_MAJOR]
        self.cluster = data_dir / f"postgresql-{OLDEST_MAJOR}"


@contextmanager
def run_oldest_postgres(folder: Path) -> Iterator[str]:
    """Run it on a new folder and yield its URL; skip the test if it is not installed."""
    if not [one for one in system_programs() if one.major == OLDEST_MAJOR]:
        report_missing(
            f"PostgreSQL {OLDEST_MAJOR} is missing: apt-get install postgresql-{OLDEST_MAJOR}"
        )
    folder.mkdir()
    with OldestPostgres(folder) as postgres:
        assert postgres.dsn is not None
        yield postgres.dsn
