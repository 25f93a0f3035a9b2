"""What a page is made of: notices, forms, figures and tables of cells, all of them plain values that a template writes out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from etl.table import cell as one_line

LONG = 36  # an id and an instant stay on one line
SHORT_PLACES = Decimal("0.000001")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what is shown, what hovering tells, and where it leads."""

    text: str
    title: str | None = None
    href: str | None = None
    right: bool = False  # numbers stand right
    known: bool = True

    @property
    def classes(self) -> str:
        """How it is set: long texts may break anywhere, so that one of them does not stretch the table."""
        return " ".join(
            name for name, is_so in (("right", self.right), ("unknown", not self.known), ("long", len(self.text) > LONG)) if is_so
        )


@dataclass(frozen=True, slots=True)
class Table:
    """One table with a caption; `empty` says what it means that there is no row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "nothing"  # and what to type, where something can be done
    note: str | None = None
    turns: Sequence[Link] = ()  # other ways to see the same, or the pages after this one
    turned: str = ""  # what goes before them
    name: str | None = None  # its anchor

    @property
    def right(self) -> list[bool]:
        """Which columns hold numbers, so that their heads stand right too."""
        return [any(row[n].right for row in self.rows) for n in range(len(self.columns))]


@dataclass(frozen=True, slots=True)
class Link:
    """One place to go."""

    text: str
    href: str
    here: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to be seen before the tables: `bad` needs somebody to act, `note` is worth knowing."""

    level: str  # bad | note | good
    text: str
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a page's form; with options it is a choice, else a line of text."""

    name: str
    label: str
    value: str = ""
    options: Sequence[tuple[str, str]] = ()  # value, label
    example: str = ""  # how it is written


@dataclass(frozen=True, slots=True)
class Figure:
    """One chart, drawn on the server, with the sentence that says the same to who cannot see it."""

    caption: str
    svg: Markup  # Vega wrote it, and has escaped the names in it
    summary: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that is read first; its cell tells it whole on hover and may lead further."""

    label: str
    cell: Cell
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page for reading."""

    title: str
    lead: str = ""
    notices: Sequence[Notice] = ()
    trail: Sequence[Link] = ()  # from the whole down to what is shown
    choices: Sequence[Link] = ()
    fields: Sequence[Field] = ()
    hidden: Sequence[tuple[str, str]] = ()  # what the form keeps of the address
    tiles: Sequence[Tile] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


def drawn(svg: str) -> Markup:
    """A chart of our own drawing as markup."""
    return Markup(svg)  # noqa: S704  only etl/charts.py makes what is passed here


# ---- cells ----

UNKNOWN = Cell("unknown", "not known: null in the ledger, never zero", known=False)


def text(value: Any, href: str | None = None) -> Cell:
    """A value as one line; what a terminal or a browser would obey is escaped or shown."""
    if value is None:
        return Cell("unknown", href=href, known=False)
    return Cell(one_line(value), href=href)


def count(value: int | None, href: str | None = None) -> Cell:
    """A whole number in groups of three."""
    return UNKNOWN if value is None else Cell(f"{value:,}", str(value), href, right=True)


def amount(value: Decimal | None, currency: str | None = None) -> Cell:
    """An amount in six places where that loses nothing that matters; every place on hover. Tiny amounts are shown whole."""
    if value is None:
        return Cell("unknown", UNKNOWN.title, right=True, known=False)
    exact = f"{value:f}"
    short = value.quantize(SHORT_PLACES)
    shown = f"{short:,f}" if short or not value else exact
    return Cell(shown, f"{exact} {currency}" if currency else exact, right=True)


def ms(value: int | None) -> Cell:
    """Milliseconds; a dash where there is none to tell."""
    return Cell("-", "not measured", right=True, known=False) if value is None else Cell(f"{value:,} ms", str(value), right=True)


def instant(value: dt.datetime | None, href: str | None = None) -> Cell:
    """An instant to the second with its zone; microseconds on hover."""
    if value is None:
        return UNKNOWN
    return Cell(f"{value:%Y-%m-%d %H:%M:%S} UTC", f"{value.isoformat(timespec='microseconds')}Z", href)


def instant_of(written: str) -> dt.datetime | None:
    """An instant or a day as a person writes it, in UTC where it names no zone; null where it is none."""
    try:
        value = dt.datetime.fromisoformat(written)
        return value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # an offset may lead out of the calendar
        return None


def address(path: str, query: Mapping[str, str | Sequence[str]] | None = None) -> str:
    """A path with its query, both escaped."""
    return path + ("?" + urlencode(query, doseq=True) if query else "")


def receipt_address(request_id: str) -> str:
    """Where the receipt of a request stands."""
    return f"/requests/{quote(request_id, safe='')}"


def run_address(run_id: str) -> str:
    """Where the receipt of a run stands."""
    return f"/runs/{quote(run_id, safe='')}"
