"""The published JSON Schema of a receipt (draft 2020-12), made from the declarations of the ledger's tables and of the receipt's parts.

Amounts and unit prices are texts with 12 places, instants are texts in UTC with microseconds, unknown is null. A new
member of a receipt keeps the schema's name; one that goes or changes its meaning takes the next number.
"""

from __future__ import annotations

import types
from dataclasses import fields
from typing import Any, get_args, get_type_hints

from etl.inclusion import Inclusion
from etl.merkle import Sibling
from etl.receipt import FROM, SCHEMA, Attempt, Claim, Exchange, Line, Name, Policy, Posting, Rate, Term, Unpriced
from schemas.ledger import BY_NAME, LEDGER, Column

# The parts of a receipt under the names they have in its JSON, and what each list says.
PARTS: dict[str, tuple[type[Any], str]] = {
    "attempts": (Attempt, "every try sent upstream, in time"),
    "charges": (Line, "the arithmetic: quantity x unit_price = amount, a line per attempt, model, meter and price"),
    "rates": (Rate, "the rows of rates.csv that the lines refer to, as they were when the ledger was built"),
    "terms": (Term, "the rows of terms.csv that the lines refer to"),
    "exchange_rates": (Exchange, "the rows of fx.csv that the lines refer to"),
    "policies": (Policy, "the rows of failed_requests.csv that decided what failed attempts cost"),
    "unpriced": (Unpriced, "meters whose charge is not known, and what is missing"),
    "wallet_entries": (Posting, "what it moved in wallets"),
    "attribution": (Claim, "who it belongs to: what counts, and what was only claimed"),
    "ids": (Name, "every id under which it can be found"),
}
_AMOUNT = {"type": "string", "pattern": r"^-?\d+\.\d{12}$"}
_INSTANT = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}
_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TYPES: dict[str, dict[str, Any]] = {
    "VARCHAR": {"type": "string"},
    "BIGINT": {"type": "integer"},
    "INTEGER": {"type": "integer"},
    "TIMESTAMP": _INSTANT,
    "DECIMAL(38,12)": _AMOUNT,
    "DECIMAL(18,12)": _AMOUNT,
}
# Columns of the ledger that are never null.
KNOWN = ("request_id", "created_at", "period")


def schema() -> dict[str, Any]:
    """The schema as JSON can carry it."""
    members: dict[str, Any] = {
        "schema": {"const": SCHEMA, "description": "the name of this schema"},
        "published": {"type": "boolean", "description": "false: built from the records as they are now, before any build was published"},
        **{column.name: _member(column, nullable=column.name not in KNOWN) for column in LEDGER.columns},
        **{name: _list(part, says) for name, (part, says) in PARTS.items()},
        "proof": {
            "anyOf": [_proof(), {"type": "null"}],
            "description": "that its digest is under the seal of its month; null while that is open",
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "A receipt: everything the ledger says of one request",
        **_object(members),
    }


def _object(members: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}


def _member(column: Column, *, nullable: bool) -> dict[str, Any]:
    kind = _TYPES[column.type]
    return {**kind, "type": [kind["type"], "null"] if nullable else kind["type"], "description": column.doc}


def _list(part: type[Any], says: str) -> dict[str, Any]:
    columns = {column.name: column for column in BY_NAME[FROM[part].split()[0]].columns}
    hints = get_type_hints(part)
    members = {field.name: _member(columns[field.name], nullable=_nullable(hints[field.name])) for field in fields(part)}
    if part is Attempt:
        members["ms"] = {"type": ["integer", "null"], "description": "whole milliseconds from start to end"}
    return {"type": "array", "description": says, "items": _object(members)}


def _nullable(hint: Any) -> bool:
    return types.NoneType in get_args(hint)


def _proof() -> dict[str, Any]:
    sibling = {"side": {"enum": ["left", "right"]}, "hash": _HASH}
    assert list(sibling) == [field.name for field in fields(Sibling)]
    members = {
        "period": {"type": "string"},
        "index": {"type": "integer", "description": "its place among the month's receipts by request_id, from 0"},
        "count": {"type": "integer", "description": "the month's receipts"},
        "siblings": {"type": "array", "items": _object(sibling), "description": "from the bottom up"},
        "root": {**_HASH, "description": "the root of the month's Merkle tree"},
        "seal": {**_HASH, "description": "the hash of the month's seal"},
    }
    assert list(members) == [field.name for field in fields(Inclusion)]
    return _object(members)
