"""How a bill is read, as a TOML text: which column or member says what, in which units, sign, zone and granularity.

The mappings of known formats lie in etl/bills/mappings/; `book/bills/<vendor>.toml` is written in the same words, and may
start from one of them with `like = "name"`. A member is named by its path: `a.b` goes into an object (or into a text that
holds one), `^name` is a member of the object around the record, and of a list of names the first that says anything counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Map
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from etl.bills.lines import GRAINS, KINDS, BillError
from schemas.bookfile import Problem, RefusedError, TomlFile, closest, read_toml, shown
from schemas.money import MoneyError, parse_decimal
from schemas.registry import zone as zone_name

FOLDER = Path(__file__).parent / "mappings"

# What a column can say.
COLUMNS = frozenset(
    "at until id model item requests input_tokens cached_tokens cache_write_tokens output_tokens reasoning_tokens tier multiplier "
    "input_price output_ratio cached_ratio output_price cached_price amount currency priced_amount priced_currency fee account kind".split()
)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One way to read a bill."""

    name: str
    source: str = ""  # where the format is described
    records: tuple[str, ...] = ("[]", "data[]", ".")  # JSON: where the records are, the first that holds any
    detect: Map[str, str] = field(default_factory=dict)  # a record has these members, with this value, or any where it is *
    incomplete: str | None = None  # JSON: where this member is true, the file is one page of several
    count: str | None = None  # JSON: this member says how many records there are
    grain: str = "request"
    zone: str = "UTC"
    currency: str | None = None  # where no column names it; None: the ledger's
    unit: Decimal = Decimal(1)  # what one unit of `amount` is worth
    price_unit: Decimal = Decimal(1)  # what one unit of `input_price` is worth
    negative: bool = False  # charges are written with a minus
    decimal_comma: bool = False
    cached_beside: bool = False  # cached and cache-write tokens are not inside input_tokens
    time_formats: tuple[str, ...] = ()  # beside ISO 8601 and Unix seconds, as strptime knows them
    exchange: Map[str, Decimal] = field(default_factory=dict)  # the ledger's currency for one unit of another
    kinds: Map[str, str] = field(default_factory=dict)  # a value of `kind` -> usage | fee | -fee (turned round) | payment
    columns: Map[str, tuple[str, ...]] = field(default_factory=dict)
    model_pattern: str | None = None  # the first group of this pattern in `model` is the model's id; where it is not there, none is named
    vendor: str | None = None
    channels: tuple[str, ...] = ()
    account: str | None = None


class _Reader:
    """Values of one TOML file, with a problem for each that is not what its place takes."""

    def __init__(self, source: TomlFile) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def refuse(self, place: tuple[str | int, ...], value: object, what: str, cure: str) -> None:
        name = ".".join(map(str, place))
        text = None if value is None else shown(name, value)
        self.problems.append(Problem(self.source.file, self.source.line(place), name, text, what, cure))

    def text(self, value: Any, place: tuple[str | int, ...]) -> str:
        if not isinstance(value, str) or not value:
            self.refuse(place, value, "not a text", "write it in quotes")
            return ""
        return value

    def texts(self, value: Any, place: tuple[str | int, ...]) -> tuple[str, ...]:
        return tuple(self.text(item, place) for item in (value if isinstance(value, tuple) else (value,)))

    def flag(self, value: Any, place: tuple[str | int, ...]) -> bool:
        if not isinstance(value, bool):
            self.refuse(place, value, "neither true nor false", "write true or false")
        return value is True

    def pattern(self, value: Any, place: tuple[str | int, ...]) -> str:
        text = self.text(value, place)
        try:
            if re.compile(text).groups != 1:
                self.refuse(place, text, "has not one group", "put the part that is the model's id in one pair of brackets")
        except re.error as error:
            self.refuse(place, text, f"not a pattern ({error})", "mend the regular expression")
        return text

    def number(self, value: Any, place: tuple[str | int, ...]) -> Decimal:
        try:
            found = parse_decimal(self.text(value, place) or "1")
        except MoneyError as error:
            self.refuse(place, value, error.what, error.cure)
            return Decimal(1)
        if not found:
            self.refuse(place, value, "is zero", 'write what one unit is worth, for example "0.000002"')
        return found

    def one_of(self, value: Any, place: tuple[str | int, ...], known: tuple[str, ...]) -> str:
        text = self.text(value, place)
        if text and text not in known:
            self.refuse(place, text, "not one of those known", closest(text, known))
        return text

    def table(self, value: Any, place: tuple[str | int, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(place, value, "not a table", f"write [{place[-1]}] and its lines below")
            return {}
        return value


def read_mapping(file: str, content: bytes, name: str) -> Mapping:
    """The mapping that a TOML file describes; raises BillError or BookError with everything that is wrong."""
    source = read_toml(file, content)
    reader = _Reader(source)
    data = dict(source.data)
    mapping = Mapping(name)
    if (like := data.pop("like", None)) is not None and reader.one_of(like, ("like",), tuple(sorted(known()))) in known():
        mapping = replace(known()[like], name=name)
    changes: dict[str, Any] = {}
    readers: dict[str, Any] = {
        **dict.fromkeys(("source", "incomplete", "count", "currency", "vendor", "account"), reader.text),
        "model_pattern": reader.pattern,
        **dict.fromkeys(("records", "time_formats", "channels"), reader.texts),
        **dict.fromkeys(("negative", "decimal_comma", "cached_beside"), reader.flag),
        **dict.fromkeys(("unit", "price_unit"), reader.number),
        "grain": lambda value, place: reader.one_of(value, place, GRAINS),
        "zone": lambda value, place: _zone(reader, value, place),
        "detect": lambda value, place: {k: reader.text(v, (*place, k)) for k, v in reader.table(value, place).items()},
        "exchange": lambda value, place: {k.upper(): reader.number(v, (*place, k)) for k, v in reader.table(value, place).items()},
        "kinds": lambda value, place: {
            k.casefold(): reader.one_of(v, (*place, k), (*KINDS, "-fee")) for k, v in reader.table(value, place).items()
        },
        "columns": lambda value, place: _columns(reader, value, place),
    }
    for key, value in data.items():
        if key not in readers:
            reader.refuse((key,), None, "not a word of a mapping", closest(key, {*readers, "like"}))
            continue
        read = readers[key](value, (key,))
        changes[key] = {**getattr(mapping, key), **read} if isinstance(read, dict) and key != "detect" else read
    mapping = replace(mapping, **changes)
    if not reader.problems and mapping.columns and not {"amount", "input_tokens"} & mapping.columns.keys():
        reader.refuse(("columns",), None, "name neither an amount nor tokens", 'write for example amount = "cost"')
    if not reader.problems and mapping.columns and mapping.grain != "month" and "at" not in mapping.columns:
        reader.refuse(("columns",), None, "do not say when", 'write for example at = "created_at", or grain = "month"')
    if reader.problems:
        raise BillError(reader.problems)
    return mapping


def _zone(reader: _Reader, value: Any, place: tuple[str | int, ...]) -> str:
    try:
        return zone_name(reader.text(value, place))
    except RefusedError as error:
        reader.refuse(place, value, error.what, error.cure)
        return "UTC"


def _columns(reader: _Reader, value: Any, place: tuple[str | int, ...]) -> dict[str, tuple[str, ...]]:
    found = {}
    for column, names in reader.table(value, place).items():
        if column not in COLUMNS:
            reader.refuse((*place, column), None, "not something that a column can say", closest(column, COLUMNS))
        else:
            found[column] = reader.texts(names, (*place, column))
    return found


@cache
def known() -> Map[str, Mapping]:
    """The mappings of known formats by name."""
    return {path.stem: read_mapping(path.name, path.read_bytes(), path.stem) for path in sorted(FOLDER.glob("*.toml"))}
