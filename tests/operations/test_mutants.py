"""The list of mutants fits the tree, and a result says what happened.

``python -m tests.mutants`` tries the mutants themselves.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from service.database.statements import translate
from tests.mutants.catalog import Mutant, choose, load_mutants, take_sample
from tests.mutants.trials import Result, _read_result, run_tests
from tests.support.database import Database
from tests.support.paths import DOCS, ROOT

MUTANTS = load_mutants()
AREAS = sorted({mutant.area for mutant in MUTANTS})


def mutants_of(area: str) -> list[Mutant]:
    """Return the mutants of an area."""
    return [mutant for mutant in MUTANTS if mutant.area == area]


def apply(mutant: Mutant) -> str:
    """Return the changed text of the mutant's file."""
    return mutant.apply((ROOT / mutant.file).read_text())


def test_each_mutant_has_a_name_of_its_own_and_a_reason() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) >= 150
    assert all(mutant.wrong and mutant.tests for mutant in MUTANTS)


@pytest.mark.parametrize("area", AREAS)
def test_each_mutant_changes_a_text_that_occurs_once(area: str) -> None:
    for mutant in mutants_of(area):
        assert apply(mutant) != (ROOT / mutant.file).read_text(), mutant.name


@pytest.mark.parametrize("area", AREAS)
def test_each_mutant_names_tests_that_exist(area: str) -> None:
    for mutant in mutants_of(area):
        for test in mutant.tests:
            file, _, name = test.partition("::")
            function = name.partition("[")[0]
            assert not name or f"def {function}(" in (ROOT / file).read_text(), test
            assert (ROOT / file).is_file(), test


def test_each_mutant_of_a_statement_can_be_parsed(database: Database) -> None:
    """One that cannot is noticed by every test, and proves nothing."""
    with psycopg.connect(database.dsn) as connection:
        for mutant in MUTANTS:
            if mutant.file.startswith("sql/"):
                _, numbered, _ = translate(mutant.name, apply(mutant))
                result = connection.pgconn.prepare(b"", numbered)
                assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, (
                    mutant.name,
                    result.error_message,
                )


def test_each_mutant_of_a_module_can_be_compiled() -> None:
    for mutant in MUTANTS:
        if mutant.file.endswith(".py"):
            compile(apply(mutant), mutant.name, "exec")


def test_a_text_that_does_not_occur_once_is_refused() -> None:
    mutant = replace(MUTANTS[0], text="a", becomes="b")
    assert mutant.apply("xax") == "xbx"
    for source in ("x", "axa"):
        with pytest.raises(ValueError, match="not once"):
            mutant.apply(source)


def test_a_sample_depends_on_its_seed_alone() -> None:
    assert take_sample(MUTANTS, 10, "2026-12-01") == take_sample(MUTANTS, 10, "2026-12-01")
    assert take_sample(MUTANTS, 10, "2026-12-01") != take_sample(MUTANTS, 10, "2026-12-02")
    assert choose(MUTANTS, ["lock_events.sql"]) == [
        mutant for mutant in MUTANTS if mutant.file == "sql/lock_events.sql"
    ]


@pytest.mark.parametrize(
    ("exit_code", "case", "result"),
    [
        (0, "", "survived"),
        (1, '<failure message="assert 1 == 2"/>', "killed"),
        (1, '<error message="failed on teardown with AssertionError"/>', "killed"),
        (1, '<error message="failed on setup with psycopg.errors.SyntaxError"/>', "did not start"),
        (2, '<error message="collection failure"/>', "did not start"),
        (4, "", "did not start"),
    ],
)
def test_only_a_failed_test_kills_a_mutant(
    tmp_path: Path, exit_code: int, case: str, result: Result
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        f"<testsuites><testsuite><testcase>{case}</testcase></testsuite></testsuites>"
    )
    assert _read_result(exit_code, report) == result


LIMIT = Mutant(
    name="limit",
    area="tests",
    file="service/write_path/batches.py",
    text="if batch and tickets > limits.MAX_BATCH_TICKETS:",
    becomes="if False:",
    wrong="a batch can take longer than its statement may",
    tests=(
        "tests/concurrency/test_batches.py::test_a_batch_limits_the_tickets_of_its_reservations",
    ),
)


@pytest.mark.parametrize(
    ("mutant", "result"),
    [
        (None, "survived"),
        (LIMIT, "killed"),
        (replace(LIMIT, becomes="if if:"), "did not start"),
    ],
    ids=["unchanged", "mutant", "syntax error"],
)
def test_a_mutant_is_tried_in_a_copy(mutant: Mutant | None, result: Result) -> None:
    assert run_tests(LIMIT.tests, mutant=mutant).result == result


def test_the_document_has_the_figures_of_the_list() -> None:
    page = (DOCS / "explanation" / "guarantees.md").read_text()
    rows = {
        area: (int(killed), int(equivalent), int(survived))
        for area, killed, equivalent, survived in re.findall(
            r"^\| (\w+) \| [^|]+ \| (\d+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE
        )
    }
    listed = {}
    for area in AREAS:
        equivalent = sum(bool(mutant.equivalent) for mutant in mutants_of(area))
        listed[area] = (len(mutants_of(area)) - equivalent, equivalent, 0)
    listed["all"] = (
        sum(killed for killed, _, _ in listed.values()),
        sum(equivalent for _, equivalent, _ in listed.values()),
        0,
    )
    assert rows == listed
