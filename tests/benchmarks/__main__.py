"""``python -m tests.benchmarks``: measure the service against the textbook transaction."""

import argparse
import sys
from collections.abc import Sequence

from service.cli.parser import output_file, whole_number
from service.embedded.programs import EmbeddedError
from service.settings import SettingsError, read_settings
from tests.benchmarks import bench, trials
from tests.benchmarks.workloads import WORKLOADS

DESCRIPTION = """\
Runs each workload against the service, against begin, select for update, insert, update, commit,
and against the same server without a database, in turn, on a PostgreSQL of its own: four minutes
in all. What counts are the ratios. --trial does something longer in their place. It needs the
extra bench, and uses wrk if there is one. WORKERS sets how many workers the service has."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, or one trial, and return the exit code."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    try:
        workers = read_settings().workers
        if parsed.trial:
            trials.run(parsed.trial, parsed.plot)
            return 0
        outcomes = bench.run(parsed.rounds, parsed.seconds, workers, WORKLOADS)
        if parsed.json:
            print(bench.as_json(outcomes))
        else:
            bench.print_table(outcomes)
        if parsed.plot:
            bench.plot(parsed.plot, parsed.seconds, workers)
    except (EmbeddedError, SettingsError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the benchmark's options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    add("--json", action="store_true", help="the figures as JSON")
    add(
        "--plot", type=output_file, metavar="FILE", help="draw tickets over clients, too (SVG, PNG)"
    )
    add(
        "--rounds", type=whole_number(1, 99), default=3, metavar="N", help="of which the median (3)"
    )
    add("--seconds", type=whole_number(1, 600), default=5, metavar="N", help="for each load (5)")
    names = ", ".join(trials.TRIALS)
    add("--trial", choices=trials.TRIALS, metavar="NAME", help=f"one of {names} instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
