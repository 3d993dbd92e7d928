"""``python -m tests.mutants``: make each change in a copy, and require that a test notices it."""

import argparse
import sys
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from service.cli.parser import whole_number
from service.temporary import remove_abandoned_folders
from tests.mutants.catalog import Mutant, choose, load_mutants, take_sample
from tests.mutants.trials import Trial, is_clean, run_server, run_tests, try_mutant

DESCRIPTION = """\
Make each change of the list in a copy of the tree, run the tests that it names there, and print
the changes that no test notices. The exit code is 1 if there is one, unless the list says why no
test can. First the same tests must pass in an unchanged copy. The whole list takes half an hour."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants and return the exit code."""
    parsed = build_parser().parse_args(arguments)
    mutants = choose(load_mutants(), parsed.words)
    if not mutants:
        print(f"no mutant matches {' '.join(parsed.words)}: see --list", file=sys.stderr)
        return 2
    if parsed.sample:
        mutants = take_sample(mutants, parsed.sample, parsed.seed)
        print(f"a sample of {len(mutants)}, seed {parsed.seed}")
    if parsed.list:
        for mutant in mutants:
            print(f"{mutant.area}: {mutant.name}: {mutant.wrong}")
        return 0
    remove_abandoned_folders()
    return try_all(mutants, parsed.jobs, verbose=parsed.verbose)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="only mutants of this area, or with this in their name or the path of their file",
    )
    parser.add_argument(
        "--jobs", type=whole_number(1, 64), default=2, help="how many at once (default 2)"
    )
    parser.add_argument(
        "--sample", type=whole_number(1, 10_000), metavar="SIZE", help="only so many of them"
    )
    parser.add_argument(
        "--seed",
        default=f"{datetime.now(UTC):%Y-%m-%d}",
        help="which sample: the same seed takes the same mutants (default: today's date)",
    )
    parser.add_argument("--list", action="store_true", help="print the mutants, and try none")
    parser.add_argument(
        "--verbose", action="store_true", help="print the output of pytest for each mutant"
    )
    return parser


def try_all(mutants: Sequence[Mutant], jobs: int, *, verbose: bool) -> int:
    """Try mutants, print each result and a table, and return the exit code."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    queue = deque(mutants)
    trials: dict[Mutant, Trial] = {}

    def try_next() -> None:
        """Try mutants until none is left, on one server as long as tests leave it as it was."""
        while queue:
            with run_server() as server:
                while queue and is_clean(server):
                    mutant = queue.popleft()
                    trial = trials[mutant] = try_mutant(mutant, server)
                    lines = [f"{trial.seconds:5.1f} s  {describe(mutant, trial)}"]
                    if verbose or trial.result in ("did not start", "hung"):
                        lines.append(trial.output)
                    print("\n".join(lines), flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        unchanged = pool.submit(run_tests, tests)
        workers = [pool.submit(try_next) for _ in range(jobs)]
        for worker in workers:
            worker.result()
    print_table(trials)
    if unchanged.result().result != "survived":
        print(f"the tests fail in an unchanged copy, too:\n{unchanged.result().output}")
        return 1
    return int(any(is_wrong(mutant, trial) for mutant, trial in trials.items()))


def is_wrong(mutant: Mutant, trial: Trial) -> bool:
    """Whether the result is not the one that the list expects."""
    return trial.result != ("survived" if mutant.equivalent else "killed")


def describe(mutant: Mutant, trial: Trial) -> str:
    """Return a line with the result of a mutant, and what a survivor changes."""
    line = f"{trial.result}: {mutant.area}: {mutant.name}"
    if not is_wrong(mutant, trial):
        return line + (f" (equivalent: {mutant.equivalent})" if mutant.equivalent else "")
    if mutant.equivalent:
        return f"{line}, although the list says that no test can notice it"
    return f"{line}: {mutant.wrong} ({mutant.file}; {', '.join(mutant.tests)})"


def print_table(trials: Mapping[Mutant, Trial]) -> None:
    """Print how many mutants of each area were killed, are equivalent, and survived."""
    counts: dict[str, Counter[str]] = {}
    for mutant, trial in sorted(trials.items(), key=lambda item: item[0].area):
        is_equivalent = trial.result == "survived" and bool(mutant.equivalent)
        result = "equivalent" if is_equivalent else trial.result
        counts.setdefault(mutant.area, Counter())[result] += 1
    columns = ("killed", "equivalent", "survived", "did not start", "hung")
    print("\n| area | " + " | ".join(columns) + " |\n" + "|---" * 6 + "|")
    for area, results in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| {area} | " + " | ".join(str(results[column]) for column in columns) + " |")


if __name__ == "__main__":
    sys.exit(main())
