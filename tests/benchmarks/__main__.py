"""``python -m tests.benchmarks``: measure the service against the textbook transaction."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from service.cli.parser import output_file, whole_number
from service.embedded.programs import EmbeddedError
from service.settings import SettingsError, read_settings
from service.temporary import remove_abandoned_folders
from tests.benchmarks import bench, trials
from tests.benchmarks.workloads import WORKLOADS

DESCRIPTION = """\
Measure the service against the textbook transaction (begin, select for update, insert, update,
commit) and against the same server without a database, in turn, on a temporary PostgreSQL. The
default takes four minutes. Compare the ratios of one run; absolute rates depend on the machine.
The load comes from wrk, if it is installed. WORKERS sets the number of the service's workers.
Requires the extra "bench"."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark or one trial, and return the exit code."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # Python raises KeyboardInterrupt at SIGINT
        signal.signal(number, _exit)
    remove_abandoned_folders()
    try:
        workers = read_settings().workers
        if parsed.trial:
            trials.run_trial(parsed.trial, parsed.plot)
            return 0
        summaries = bench.run(parsed.rounds, parsed.seconds, workers, WORKLOADS)
        if parsed.json:
            print(bench.as_json(summaries))
        else:
            bench.print_table(summaries)
        if parsed.plot:
            bench.plot(parsed.plot, parsed.seconds, workers)
    except (EmbeddedError, SettingsError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return 130
    return 0


def _exit(number: int, _: FrameType | None) -> None:
    """Exit so that every block is left, and so every server stopped and every folder removed."""
    sys.exit(128 + number)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=DESCRIPTION, allow_abbrev=False
    )
    add = parser.add_argument
    count, seconds = whole_number(1, 99), whole_number(1, 600)
    names = ", ".join(trials.TRIALS)
    add("--json", action="store_true", help="print the results as JSON")
    add("--plot", type=output_file, metavar="FILE", help="also plot a chart to FILE (SVG or PNG)")
    add("--rounds", type=count, default=3, metavar="N", help="rounds to take medians of (3)")
    add("--seconds", type=seconds, default=5, metavar="N", help="duration of each load (5)")
    add("--trial", choices=trials.TRIALS, metavar="NAME", help=f"run one trial instead: {names}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
