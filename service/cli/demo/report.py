"""What the demo shows: a table that lives in a terminal, lines elsewhere, and the end of it all."""

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
from service.cli.demo.crowd import Show

BAR, BAR_FROM = 22, 100
"""How wide the bar of an event is, and the terminal has to be for it."""
PICTURE_COLUMNS = 100
DRAWN_AT = 0.2
"""Of the demo: when the picture shows how the events stand, besides the end."""
LINE_SECONDS = 1.0
"""Between two lines where there is no terminal."""


class Screen:
    """Where the demo is watched; with a picture, also a terminal of 100 columns on paper."""

    def __init__(self, drawn: bool) -> None:
        self._console = Console(highlight=False)
        self._paper = Console(
            record=drawn,
            file=io.StringIO(),
            width=PICTURE_COLUMNS,
            force_terminal=True,
            color_system="truecolor",
            highlight=False,
        )
        self._paper.print("$ holdfast demo")
        self._live: Live | None = None
        self._next_line = 0.0
        self._is_drawn = False

    def say(self, *lines: str) -> None:
        """Show lines that stay."""
        for one in lines:
            self._console.print(one, soft_wrap=True)
            self._paper.print(one)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Show tables in the place of one another, for as long as the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield

    def show(self, shows: Sequence[Show], passed: float, seconds: float) -> None:
        """Show how the events stand when so many of so many seconds have passed."""
        if self._live is not None:
            self._live.update(table(shows, self._console.width), refresh=True)
        elif passed >= self._next_line:
            self._next_line += LINE_SECONDS
            self._console.print(line(shows, passed), soft_wrap=True)
        if not self._is_drawn and passed >= seconds * DRAWN_AT:
            self._is_drawn = True
            self._paper.print(f"\nafter {passed:.0f} s", table(shows, PICTURE_COLUMNS), sep="\n")

    def table(self, shows: Sequence[Show]) -> None:
        """Show how the events stand, for good."""
        for console in (self._console, self._paper):
            console.print(table(shows, console.width, is_over=True))

    def audit(self, done: Audit) -> None:
        """Show what the audit has found."""
        for console in (self._console, self._paper):
            print_audit(done, console)

    def save(self, picture: Path) -> None:
        """Write the picture, as SVG that asks no foreign host for a font."""
        svg = self._paper.export_svg(
            title="holdfast demo", theme=DIMMED_MONOKAI, unique_id="holdfast-demo"
        )
        picture.write_text(re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL))


def table(shows: Sequence[Show], columns: int, *, is_over: bool = False) -> Table:
    """Return how the events stand, a row for each; when it is over there is no rate."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown.add_column("event", no_wrap=True)
    if columns >= BAR_FROM:
        shown.add_column(Text.assemble(("paid ", "green"), ("held ", "yellow"), ("free", "dim")))
    for name in ("tickets", "available", "reserved", "purchased", "refused"):
        shown.add_column(name, justify="right")
    if not is_over:
        shown.add_column("tickets/s", justify="right")
    for one in shows:
        counts = [one.total, one.available, one.reserved, one.purchased, one.told["refused"]]
        cells = [f"{number:,}" for number in counts + ([] if is_over else [round(one.rate)])]
        shown.add_row(one.name, *([_bar(one)] if columns >= BAR_FROM else []), *cells)
    return shown


def _bar(show: Show) -> Text:
    paid = BAR * show.purchased // show.total
    allocated = BAR * (show.purchased + show.reserved) // show.total
    return Text.assemble(
        ("━" * paid, "green"),
        ("━" * (allocated - paid), "yellow"),
        ("·" * (BAR - allocated), "dim"),
    )


def line(shows: Sequence[Show], seconds: float) -> str:
    """Return how all events stand together, in a line."""
    return (
        f"{seconds:3.0f} s: {sum(one.available for one in shows):,} available, "
        f"{sum(one.reserved for one in shows):,} reserved, "
        f"{sum(one.purchased for one in shows):,} purchased, "
        f"{sum(one.told['refused'] for one in shows):,} refused, "
        f"{sum(one.rate for one in shows):,.0f} tickets/s"
    )


def what_was_shown(shows: Sequence[Show], moved: Counter[str]) -> list[str]:
    """Return what a sale has shown in which nothing was wrong, and what to do next."""
    tickets = sum(one.total for one in shows)
    told = sum((one.told for one in shows), Counter[str]())
    return [
        f"Sold exactly {tickets:,} of {tickets:,} tickets; {told['refused']:,} requests refused.",
        f"{moved['expired']:,} holds ran out, {moved['cancelled']:,} given back: all sold again.",
        f"{told['repeated']:,} requests were sent twice, with their keys, and reserved once.",
        "What the crowd was told is what the ledger has. PostgreSQL and its data are gone again.",
        "Next: holdfast serve, and a page to try it at http://localhost:8000/docs",
    ]


def what_is_wrong(shows: Sequence[Show], moved: Counter[str], done: Audit) -> list[str]:
    """Return what a sale should not have shown, a line for each; none if all was well."""
    told = sum((one.told for one in shows), Counter[str]())
    wrong = [
        f"{one.name}: {one.purchased:,} of {one.total:,} tickets were sold"
        for one in shows
        if not one.sold_out
    ]
    wrong += [
        f"the crowd was told of {told[kind]:,} tickets {kind}, the ledger has {moved[kind]:,}"
        for kind in ("reserved", "purchased", "cancelled")
        if told[kind] != moved[kind]
    ]
    if told["other"]:
        wrong.append(f"{told['other']:,} answers were not what they should have been")
    if done.failed:
        wrong.append("the audit has found what does not add up")
    return wrong
