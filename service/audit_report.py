"""The audit's report: its progress, and what it has found, for people and for programs."""

import sys
from collections.abc import Iterable

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from service.auditing import Audit


def shown_audit(parts: Iterable[Audit]) -> Audit:
    """Go through an audit, with a bar on a terminal's stderr, and return its end."""
    done = Audit()
    with Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        bar = progress.add_task("events", total=None)
        for done in parts:
            progress.update(bar, completed=done.events, total=done.events + done.remaining)
    return done


def print_audit(done: Audit, console: Console) -> None:
    """Print what an audit has found, for people."""
    if done.failed:
        table = Table("event", "name", "rule", "expected", "found")
        for check in done.failed:
            table.add_row(
                check.event_id, check.name, check.rule, str(check.expected), str(check.found)
            )
        console.print(table)
    broken = len({check.event_id for check in done.failed})
    said = f"{broken} do not add up" if broken else "all add up"
    console.print(f"{done.events} event(s): {said}", highlight=False)


def audit_as_json(done: Audit) -> str:
    """Return what an audit has found, for programs."""
    failed = [
        {
            "eventId": check.event_id,
            "eventName": check.name,
            "name": check.rule,
            "expected": check.expected,
            "found": check.found,
        }
        for check in done.failed
    ]
    body = {"ok": not failed, "events": done.events, "failed": failed}
    return msgspec.json.encode(body).decode()
