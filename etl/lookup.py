"""The tables that people audit, as Arrow: the CSV files of etl/tables/ and the meters, typed once so that a slip is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from schemas.bookfile import BookError, Problem, closest, shown
from schemas.errors import UsageError
from schemas.meters import BY_NAME, METERS, chain
from schemas.rates import Rate

FOLDER = Path(__file__).parent / "tables"

TEXT = pa.string()
NUMBER = pa.int64()
FLAG = pa.bool_()

# Of each file: its columns and their types. An empty cell is null, but in a note.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "endpoints": {
        "priority": NUMBER,
        "method": TEXT,
        "suffix": TEXT,
        "endpoint": TEXT,
        "billing": TEXT,
        "job": TEXT,
        "tier": TEXT,
        "expects_output": FLAG,
        "owes": TEXT,
        "note": TEXT,
    },
    # which object of a message is read, and as what: the rows that hold, the lowest priority first
    "usage_places": {
        "priority": NUMBER,
        "vendor": TEXT,  # the channel's usage_dialect; or, where it names none, the host matches; empty: any channel
        "host": TEXT,
        "endpoint": TEXT,
        "path": TEXT,  # a path of USAGE_PLACES, or (body), (facts), (headers), (request)
        "has": TEXT,  # a member that must be there
        "dialect": TEXT,
        "part": TEXT,  # each part has one dialect; parts add up
        "role": TEXT,  # main | beside: only fills in what the main places leave out | prompt: after those of its dialect; alone it tells no output
        "source": TEXT,  # reported by the vendor | recounted by us
        "note": TEXT,
    },
    # what a dialect's members count, and which lie inside which; RULES says what each rule does
    "dialects": {
        "dialect": TEXT,
        "rule": TEXT,
        "meter": TEXT,
        "pick": NUMBER,  # of one meter's members the first that is there counts
        "json_path": TEXT,
        "inside": TEXT,
        "list_path": TEXT,  # where given, json_path is looked up in each item of this list whose item_path is item_value
        "item_path": TEXT,
        "item_value": TEXT,
        "note": TEXT,
    },
    # a reply's usage in parts that several models made, each with its own price
    "inner_parts": {
        "priority": NUMBER,
        "endpoint": TEXT,
        "path": TEXT,  # of the object that holds the list of parts, as in usage_places
        "list_path": TEXT,
        "type_path": TEXT,  # where given, a part counts where this member is `type`
        "type": TEXT,
        "model_path": TEXT,
        "usage_path": TEXT,
        "stands": TEXT,  # beside the tokens at the top | instead of them, and then every part of the list counts
        "dialect": TEXT,
        "note": TEXT,
    },
    "attribution": {
        "fact": TEXT,
        "priority": NUMBER,
        "place": TEXT,  # header | body | header_like (name is a pattern) | header_object | body_object (each member is a tag)
        "name": TEXT,
        "pick": TEXT,  # where given, the first group of this pattern is the value
        "overrides_registry": FLAG,
        "note": TEXT,
    },
    "model_names": {"kind": TEXT, "pattern": TEXT, "replacement": TEXT, "note": TEXT},
    "signals": {"gateway": TEXT, "place": TEXT, "name": TEXT, "pick": TEXT, "fact": TEXT, "note": TEXT},
    "tiers": {"name": TEXT, "tier": TEXT, "is_told": FLAG, "note": TEXT},
    # where the region is told that processed a try: the lowest priority first
    "regions": {
        "priority": NUMBER,
        "place": TEXT,  # usage | facts | header | host (name is a pattern with one group) | asked
        "name": TEXT,
        "note": TEXT,
    },
    "request_ids": {"priority": NUMBER, "side": TEXT, "header": TEXT, "kind": TEXT},
    "vendor_charges": {"priority": NUMBER, "place": TEXT, "path": TEXT, "json_path": TEXT, "unit": TEXT, "note": TEXT},
    "encodings": {"priority": NUMBER, "pattern": TEXT, "encoding": TEXT, "approximate": FLAG, "note": TEXT},
}
# Which column of a table is a name or a JSON path: beside it stands `member`, its last name as a JSON text has it, null where it ends
# in none. A text is taken apart only where it holds that, or where names in it may be escaped.
PATHS = {"usage_places": "has", "dialects": "json_path", "attribution": "name", "signals": "name"}
_LAST_NAME = re.compile(r'"([^"]+)"$|([A-Za-z0-9_-]+)$')
RULES = {
    "count": "the meter's quantity, and part of the vendor's total",
    "outside": "the meter's quantity, which the vendor's total leaves out",
    "add": "added to the meter's quantity",
    "less": "taken from the meter's quantity",
    "rest": "the vendor's total; what it exceeds the counted parts by is the meter's quantity",
    "total": "the vendor's total; if the parts do not add up to it the usage is quarantined",
}
_READ: dict[pa.DataType, Callable[[str], Any]] = {TEXT: str, NUMBER: int, FLAG: {"true": True, "false": False}.__getitem__}


class AuditTableError(UsageError):
    """A cell of one of our own tables that does not say what its column needs."""


def lookup_tables(folder: Path = FOLDER) -> dict[str, pa.Table]:
    """Every table as `table_<name>`, the meters as `meter`, and as `meter_chain` where a meter's price may come from."""
    tables = {f"table_{name}": _read(folder / f"{name}.csv", columns) for name, columns in COLUMNS.items()}
    for row in tables["table_dialects"].to_pylist():
        unknown = {row["meter"], row["inside"]} - BY_NAME.keys() - {None}
        if unknown:
            raise AuditTableError(f"dialects.csv: no meter {', '.join(sorted(unknown))}", "use a meter of schemas/meters.py")
        if row["rule"] not in RULES:
            raise AuditTableError(f"dialects.csv: no rule {row['rule']}", f"use one of {', '.join(RULES)}")
    described = set(tables["table_dialects"]["dialect"].to_pylist())
    for name in ("usage_places", "inner_parts"):
        unread = set(tables[f"table_{name}"]["dialect"].to_pylist()) - described
        if unread:
            raise AuditTableError(f"{name}.csv: no dialect {', '.join(sorted(unread))}", "describe it in dialects.csv")
    for name, column in PATHS.items():
        rows = tables[f"table_{name}"]
        tables[f"table_{name}"] = rows.append_column("member", pa.array(map(_member, rows[column].to_pylist()), TEXT))
    return tables | {"meter": _meters(), "meter_chain": _chains()}


def _member(path: str | None) -> str | None:
    found = _LAST_NAME.search(path or "")
    return f'"{found[1] or found[2]}"' if found else None


def check_endpoints(rates: Iterable[Rate]) -> None:
    """Raise BookError for a rate row whose endpoint no call can have: it is neither in endpoints.csv nor a path."""
    known = set(_read(FOLDER / "endpoints.csv", COLUMNS["endpoints"])["endpoint"].to_pylist())
    problems = [
        Problem(
            "book/rates.csv", rate.line, "endpoint", shown("endpoint", rate.endpoint), "no such endpoint", closest(rate.endpoint, known)
        )
        for rate in rates
        if rate.endpoint is not None and not rate.endpoint.startswith("/") and rate.endpoint not in known
    ]
    if problems:
        raise BookError(problems)


def _read(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for line, row in enumerate(rows, 2):
        if list(row) != list(columns) or None in row.values():
            raise AuditTableError(f"{path.name} line {line} does not have the columns {', '.join(columns)}", "mend the line")
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for line, row in enumerate(rows, 2):
        for name, kind in columns.items():
            try:
                values[name].append(_READ[kind](row[name]) if row[name] else None)
            except (KeyError, ValueError):
                raise AuditTableError(f"{path.name} line {line}: {name} = {row[name]!r} is not a {kind}", "mend the cell") from None
    return pa.table(values, schema=pa.schema(list(columns.items())))


def _meters() -> pa.Table:
    flags = ("optional", "recorded")
    names = ("name", "unit", "family", "inside", *flags)
    schema = pa.schema([(name, FLAG if name in flags else TEXT) for name in names])
    return pa.table({name: [getattr(meter, name) for meter in METERS] for name in names}, schema=schema)


def _chains() -> pa.Table:
    """Each meter with itself at depth 0, and from 1 those whose price it has where it has none of its own, the nearest first."""
    rows = [{"meter": meter.name, "priced_as": name, "depth": depth} for meter in METERS for depth, name in enumerate(chain(meter.name))]
    return pa.Table.from_pylist(rows, pa.schema([("meter", TEXT), ("priced_as", TEXT), ("depth", NUMBER)]))
