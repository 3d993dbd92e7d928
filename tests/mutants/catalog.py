"""The list of mutants, read from the TOML files of this folder."""

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Mutant:
    """A small change that makes the service wrong."""

    name: str
    # The TOML file that lists it, without its extension.
    area: str
    # The file that is changed, relative to the root of the repository.
    file: str
    # A text that occurs in the file once, and its replacement.
    text: str
    becomes: str
    # What goes wrong.
    wrong: str
    # The tests that must notice it: files or node IDs of pytest, as few and as fast as possible.
    tests: tuple[str, ...]
    # Why no test can notice it; '' for a mutant that has to be noticed.
    equivalent: str = ""
    # Whether its tests wait for long, so that no sample takes it.
    slow: bool = False

    @property
    def changes_template(self) -> bool:
        """Whether the template database of the tests depends on the change."""
        return self.file.startswith("migrations/") or self.file == "sql/list_grants.sql"

    def mutate(self, root: Path) -> None:
        """Change the file in a copy of the tree."""
        path = root / self.file
        path.write_text(self.apply(path.read_text()))

    def apply(self, source: str) -> str:
        """Return the changed text of the file.

        Raises:
            ValueError: the text to replace does not occur exactly once.
        """
        if (count := source.count(self.text)) != 1:
            raise ValueError(f"{self.name}: {self.file} contains this text {count} times, not once")
        return source.replace(self.text, self.becomes)


def load_mutants() -> list[Mutant]:
    """Return all mutants, by area and in the order of its file."""
    return [
        Mutant(name, file.stem, **{**fields, "tests": tuple(fields["tests"])})
        for file in sorted(FOLDER.glob("*.toml"))
        for name, fields in tomllib.loads(file.read_text()).items()
    ]


def choose(mutants: Sequence[Mutant], words: Sequence[str]) -> list[Mutant]:
    """Return the mutants that a word names; all without words.

    A word is an area, or a part of a mutant's name or of the path of its file.
    """
    areas = {mutant.area for mutant in mutants}

    def matches(mutant: Mutant, word: str) -> bool:
        return mutant.area == word if word in areas else word in f"{mutant.name} {mutant.file}"

    return [
        mutant for mutant in mutants if not words or any(matches(mutant, word) for word in words)
    ]


def take_sample(mutants: Sequence[Mutant], size: int, seed: str) -> list[Mutant]:
    """Return a few mutants that are not slow, always the same for one seed."""
    fast = [mutant for mutant in mutants if not mutant.slow]
    return random.Random(seed).sample(fast, min(size, len(fast)))
