"""The log of a whole test run, which must contain no fingerprint."""

import logging
import re

from service.temporary import TemporaryFolder


class RunLog:
    """Everything that the services of a test run log, and all fingerprints sent to them."""

    def __init__(self) -> None:
        self.fingerprints: set[str] = set()
        self.folder = TemporaryFolder.create("log")
        self.path = self.folder.path / "log"
        self.file = self.path.open("a")
        handler = logging.FileHandler(self.path)
        handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
        for name in ("service", "uvicorn", "starlette", "asyncio"):
            logging.getLogger(name).addHandler(handler)
            logging.getLogger(name).setLevel(logging.DEBUG)

    def read(self) -> str:
        """Return the log's text."""
        return self.path.read_text(errors="replace")

    def leaked_fingerprints(self) -> set[str]:
        """Return the fingerprints that appear in the log as whole words."""
        words = set(re.findall(r"[\x21-\x7e]+", self.read()))
        words |= {word.strip("'\"(),;:{}[]=") for word in words}
        words |= set(re.findall(r"[\w-]{3,}", self.read()))
        # A test that sends an empty fingerprint leaks nothing, and punctuation is stripped to "".
        return self.fingerprints & words - {""}


RUN_LOG = RunLog()
