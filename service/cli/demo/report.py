"""The demo's output: a live table in a terminal, lines elsewhere, and the result."""

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

from service.cli.audit import Audit, print_audit
from service.cli.demo.crowd import Event

BAR_COLUMNS = 22
MIN_COLUMNS_FOR_BARS = 100  # of the terminal
PICTURE_COLUMNS = 100
PICTURE_TABLE_AT = 0.2  # fraction of the demo's time; the picture has a second table at the end
LINE_SECONDS = 1.0  # between two lines where there is no terminal


class Screen:
    """Prints the demo on stdout, and also records it for the picture, with 100 columns."""

    def __init__(self, has_picture: bool) -> None:
        self._console = Console(highlight=False)
        self._picture = Console(
            record=has_picture,
            file=io.StringIO(),
            width=PICTURE_COLUMNS,
            force_terminal=True,
            color_system="truecolor",
            highlight=False,
        )
        self._picture.print("$ holdfast demo")
        self._live: Live | None = None
        self._next_line = 0.0
        self._picture_has_table = False

    def print(self, *lines: str) -> None:
        """Print lines."""
        for line in lines:
            self._console.print(line, soft_wrap=True)
            self._picture.print(line)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Let each table replace the one before it while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield

    def update(self, events: Sequence[Event], elapsed: float, seconds: float) -> None:
        """Show the events' state when ``elapsed`` of the demo's ``seconds`` have passed."""
        if self._live is not None:
            self._live.update(build_table(events, self._console.width), refresh=True)
        elif elapsed >= self._next_line:
            self._next_line += LINE_SECONDS
            self._console.print(summary_line(events, elapsed), soft_wrap=True)
        if not self._picture_has_table and elapsed >= seconds * PICTURE_TABLE_AT:
            self._picture_has_table = True
            self._picture.print(
                f"\nafter {elapsed:.0f} s", build_table(events, PICTURE_COLUMNS), sep="\n"
            )

    def print_table(self, events: Sequence[Event]) -> None:
        """Print the events' final state."""
        for console in (self._console, self._picture):
            console.print(build_table(events, console.width, is_final=True))

    def print_audit(self, result: Audit) -> None:
        """Print the result of the audit."""
        for console in (self._console, self._picture):
            print_audit(result, console)

    def save_picture(self, file: Path) -> None:
        """Write the picture as SVG, without rich's web fonts: it loads nothing from other hosts."""
        svg = self._picture.export_svg(
            title="holdfast demo", theme=DIMMED_MONOKAI, unique_id="holdfast-demo"
        )
        file.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def build_table(events: Sequence[Event], columns: int, *, is_final: bool = False) -> Table:
    """Return a table with a row for each event; the final one has no rates."""
    has_bars = columns >= MIN_COLUMNS_FOR_BARS
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("event", no_wrap=True)
    if has_bars:
        legend = (("paid ", "green"), ("held ", "yellow"), ("available", "dim"))
        table.add_column(Text.assemble(*legend))
    for name in ("tickets", "available", "reserved", "purchased", "refused"):
        table.add_column(name, justify="right")
    if not is_final:
        table.add_column("tickets/s", justify="right")
    for event in events:
        counts = [event.total, event.available, event.reserved, event.purchased]
        counts += [event.requests["refused"], *([] if is_final else [round(event.rate)])]
        cells = [f"{number:,}" for number in counts]
        table.add_row(event.name, *([_bar(event)] if has_bars else []), *cells)
    return table


def _bar(event: Event) -> Text:
    paid = BAR_COLUMNS * event.purchased // event.total
    allocated = BAR_COLUMNS * (event.purchased + event.reserved) // event.total
    return Text.assemble(
        ("━" * paid, "green"),
        ("━" * (allocated - paid), "yellow"),
        ("·" * (BAR_COLUMNS - allocated), "dim"),
    )


def summary_line(events: Sequence[Event], elapsed: float) -> str:
    """Return the state of all events together, in one line."""
    return (
        f"{elapsed:3.0f} s: {sum(event.available for event in events):,} available, "
        f"{sum(event.reserved for event in events):,} reserved, "
        f"{sum(event.purchased for event in events):,} purchased, "
        f"{sum(event.requests['refused'] for event in events):,} refused, "
        f"{sum(event.rate for event in events):,.0f} tickets/s"
    )


def success_lines(events: Sequence[Event], ledger: Counter[str]) -> list[str]:
    """Return what to print after a sale without errors."""
    tickets = sum(event.total for event in events)
    requests = sum((event.requests for event in events), Counter[str]())
    return [
        f"Sold exactly {tickets:,} of {tickets:,} tickets; "
        f"{requests['refused']:,} requests refused.",
        f"{ledger['expired']:,} tickets expired and {ledger['cancelled']:,} were cancelled: "
        "all were sold again.",
        f"{requests['replayed']:,} requests were repeated with their keys, and reserved once.",
        f"{requests['over the limit']:,} people asked for more than their limit, and got no more.",
        "The responses match the ledger. PostgreSQL and its data are removed.",
        "Next: run holdfast serve and open http://localhost:8000",
    ]


def error_lines(events: Sequence[Event], ledger: Counter[str], result: Audit) -> list[str]:
    """Return the errors of a sale, one per line."""
    confirmed = sum((event.confirmed_tickets for event in events), Counter[str]())
    requests = sum((event.requests for event in events), Counter[str]())
    errors = [
        f"{event.name}: {event.purchased:,} of {event.total:,} tickets were sold"
        for event in events
        if not event.is_sold_out
    ]
    errors += [
        f"tickets {kind}: {confirmed[kind]:,} by the responses, {ledger[kind]:,} by the ledger"
        for kind in ("reserved", "purchased", "cancelled")
        if confirmed[kind] != ledger[kind]
    ]
    if requests["other"]:
        errors.append(f"{requests['other']:,} responses were unexpected")
    if result.failed:
        errors.append("the audit found errors")
    return errors
