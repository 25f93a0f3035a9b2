"""The receipt: one logical request followed from wire to wallet, read from the published ledger or from records a second old."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from typing import Any, TypeVar

import duckdb

from etl.inclusion import Inclusion, inclusion
from etl.published import NoLedgerError, open_ledger
from etl.table import jsonable
from schemas.errors import LedgerError
from schemas.home import Home

SCHEMA = "urn:tokenledger:receipt:1"  # the name of the schema that a receipt's JSON follows: etl/receipt_schema.py


class UnknownRequestError(LedgerError):
    """No recorded request has this id."""

    def __init__(self, asked: str) -> None:
        super().__init__(
            f"no recorded request has the id {asked!r}",
            'take it from the x-ledger-request-id header, or list some: tokenledger sql "SELECT request_id, created_at FROM ledger '
            'ORDER BY created_at DESC LIMIT 20"',
        )


class UnknownRunError(LedgerError):
    """No published request belongs to this run."""

    def __init__(self, asked: str) -> None:
        super().__init__(
            f"the published ledger knows no run {asked!r}",
            'build what came since, and list the runs: tokenledger ledger && tokenledger sql "SELECT run_id FROM runs"',
        )


class AmbiguousRequestError(LedgerError):
    """One client-chosen or vendor id names several requests."""

    def __init__(self, asked: str, request_ids: Sequence[str]) -> None:
        super().__init__(
            f"{len(request_ids)} requests carry the id {asked!r}:\n" + "\n".join(f"  {request_id}" for request_id in request_ids),
            f"tokenledger receipt {request_ids[0]}",
        )
        self.request_ids = tuple(request_ids)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try upstream."""

    ordinal: int
    channel: str
    role: str
    reason: str
    sent_model: str | None
    served_model: str | None
    status: str | None
    http_status: int | None
    outcome: str | None
    started_at: dt.datetime
    ended_at: dt.datetime | None
    first_token_at: dt.datetime | None
    charged: Decimal | None
    rule: str | None
    disposition: str
    disposition_reason: str | None
    bucket: str | None
    usage_source: str | None
    input_tokens: int | None
    output_tokens: int | None
    vendor_charge: Decimal | None
    upstream_request_id: str | None
    response_id: str | None
    service_tier: str | None
    error: str | None
    raw_request_id: str
    raw_ordinal: int

    @property
    def ms(self) -> int | None:
        """Whole milliseconds from start to end."""
        return None if self.ended_at is None else (self.ended_at - self.started_at) // dt.timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of arithmetic: quantity x unit_price = amount, and the rate row that says so."""

    attempt_ordinal: int
    model: str | None
    meter: str
    quantity: int
    unit_price: Decimal
    amount: Decimal
    rate_id: str
    rate_effective_from: dt.datetime | None
    priced_as: str | None
    list_unit_price: Decimal | None
    list_amount: Decimal | None
    list_rate_id: str | None
    multiplier_id: str | None
    fx_id: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """A row of rates.csv that a line refers to, as it was when the ledger was built."""

    rate_id: str
    book: str
    channel: str
    model: str
    meter: str
    price: Decimal
    per: Decimal
    currency: str
    effective_from: dt.datetime
    effective_to: dt.datetime | None
    source: str | None
    note: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Term:
    """A row of terms.csv that a line refers to, as it was when the ledger was built."""

    term_id: str
    channel: str
    model: str
    meter: str
    term: str
    multiplier: Decimal | None
    quantity: int | None
    pool: str | None
    effective_from: dt.datetime
    effective_to: dt.datetime | None
    source: str | None
    note: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """A row of fx.csv that a line refers to, as it was when the ledger was built."""

    fx_id: str
    currency: str
    rate: Decimal
    effective_from: dt.datetime
    effective_to: dt.datetime | None
    source: str | None
    note: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Policy:
    """The row of failed_requests.csv that decided what a failed attempt costs."""

    attempt_ordinal: int
    channel: str | None
    outcome: str | None
    policy_id: str | None
    policy: str | None
    charge: str | None
    flat_amount: Decimal | None
    effective_from: dt.datetime | None
    contract_amount: Decimal | None
    booked_amount: Decimal | None
    booked_bucket: str | None
    vendor_amount: Decimal | None


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A meter whose charge is not known, and what is missing."""

    attempt_ordinal: int
    channel: str | None
    upstream_model: str | None
    meter: str | None
    quantity: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Posting:
    """One movement of a wallet that this request caused; who made it is not told here."""

    entry_id: str
    posted_at: dt.datetime
    wallet: str
    bucket: str
    kind: str
    amount: Decimal
    balance_after: Decimal
    reason: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement about who the request belongs to: `applied`, or only `claimed`."""

    fact: str
    value: str | None
    source: str
    standing: str


@dataclass(frozen=True, slots=True)
class Name:
    """One id by which this request can be found."""

    id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything the ledger says of one request. `facts` is its ledger row, columns in the contract's order."""

    request_id: str
    published: bool  # false: read from the records as they are now, before any build
    facts: dict[str, Any]
    attempts: tuple[Attempt, ...]
    lines: tuple[Line, ...]
    rates: tuple[Rate, ...]
    terms: tuple[Term, ...]
    exchanges: tuple[Exchange, ...]
    policies: tuple[Policy, ...]
    unpriced: tuple[Unpriced, ...]
    postings: tuple[Posting, ...]
    claims: tuple[Claim, ...]
    names: tuple[Name, ...]
    proof: Inclusion | None = None  # that its digest is under the seal of its month, once that is closed

    def as_json(self) -> dict[str, Any]:
        """The receipt for machines: amounts as texts with 12 places, instants in UTC, unknown as null."""
        return {
            "schema": SCHEMA,
            "published": self.published,
            **{name: jsonable(value) for name, value in self.facts.items()},
            "attempts": [{**_plain(attempt), "ms": attempt.ms} for attempt in self.attempts],
            "charges": [_plain(line) for line in self.lines],
            "rates": [_plain(rate) for rate in self.rates],
            "terms": [_plain(term) for term in self.terms],
            "exchange_rates": [_plain(exchange) for exchange in self.exchanges],
            "policies": [_plain(policy) for policy in self.policies],
            "unpriced": [_plain(meter) for meter in self.unpriced],
            "wallet_entries": [_plain(posting) for posting in self.postings],
            "attribution": [_plain(claim) for claim in self.claims],
            "ids": [_plain(name) for name in self.names],
            "proof": None if self.proof is None else self.proof.as_json(),
        }


Part = Attempt | Line | Rate | Term | Exchange | Policy | Unpriced | Posting | Claim | Name


def _plain(row: Part) -> dict[str, Any]:
    return {name: jsonable(value) for name, value in asdict(row).items()}


Row = TypeVar("Row", bound=Part)


# Where the rows of each part stand, and in which order; its fields are the columns.
FROM: dict[type[Any], str] = {
    Attempt: "attempts WHERE request_id = ? ORDER BY ordinal",
    Line: "charges WHERE request_id = ? ORDER BY attempt_ordinal, model, meter, rate_id, list_rate_id",
    Rate: "model_prices WHERE rate_id IN (SELECT unnest([rate_id, list_rate_id]) FROM charges WHERE request_id = ?) ORDER BY book, line",
    Term: "price_terms WHERE term_id IN (SELECT unnest([rate_id, multiplier_id]) FROM charges WHERE request_id = ?) ORDER BY line",
    Exchange: "exchange_rates WHERE fx_id IN (SELECT fx_id FROM charges WHERE request_id = ?) ORDER BY line",
    Policy: "attempt_policy WHERE request_id = ? ORDER BY attempt_ordinal, raw_request_id",
    Unpriced: "unpriced WHERE request_id = ? ORDER BY attempt_ordinal, meter, reason",
    Posting: "wallet_statement WHERE request_id = ? ORDER BY posted_at, entry_id",
    Claim: "attribution WHERE request_id = ? ORDER BY fact, standing, source, value",
    Name: "request_ids WHERE request_id = ? ORDER BY kind, id",
}


def _rows(connection: duckdb.DuckDBPyConnection, kind: type[Row], request_id: str) -> tuple[Row, ...]:
    columns = ", ".join(field.name for field in fields(kind))
    return tuple(kind(*row) for row in connection.execute(f"SELECT {columns} FROM {FROM[kind]}", [request_id]).fetchall())


def load(connection: duckdb.DuckDBPyConnection, request_id: str, *, published: bool) -> Receipt:
    """The receipt of a request that the table `ledger` holds."""
    cursor = connection.execute("SELECT * FROM ledger WHERE request_id = ?", [request_id])
    columns = [column[0] for column in cursor.description or ()]
    row = cursor.fetchone()
    if row is None:
        raise UnknownRequestError(request_id)
    return Receipt(
        request_id=request_id,
        published=published,
        facts=dict(zip(columns, row, strict=True)),
        attempts=_rows(connection, Attempt, request_id),
        lines=_rows(connection, Line, request_id),
        rates=_rows(connection, Rate, request_id),
        terms=_rows(connection, Term, request_id),
        exchanges=_rows(connection, Exchange, request_id),
        policies=_rows(connection, Policy, request_id),
        unpriced=_rows(connection, Unpriced, request_id),
        postings=_rows(connection, Posting, request_id),
        claims=_rows(connection, Claim, request_id),
        names=_rows(connection, Name, request_id),
    )


def matches(connection: duckdb.DuckDBPyConnection, asked: str) -> list[str]:
    """The requests that `asked` names, whichever kind of id it is; its own id wins over any other's alias."""
    if connection.execute("SELECT 1 FROM ledger WHERE request_id = ?", [asked]).fetchone():
        return [asked]
    found = connection.execute("SELECT DISTINCT request_id FROM request_ids WHERE id = ? ORDER BY request_id", [asked])
    return [row[0] for row in found.fetchall()]


def _only(asked: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        raise AmbiguousRequestError(asked, found)
    return found[0]


def find(home: Home, asked: str) -> Receipt:
    """The receipt that `asked` names: from the published ledger, else built now from what is recorded.

    A published request whose outcome was unknown at that build is built again, for it may have ended since.
    Raises UnknownRequestError or AmbiguousRequestError.
    """
    settled: Receipt | None = None
    try:
        with open_ledger(home) as connection:
            if found := matches(connection, asked):
                settled = load(connection, _only(asked, found), published=True)
                settled = replace(settled, proof=inclusion(home, connection, settled.request_id, settled.facts["period"]))
    except NoLedgerError:
        pass  # nothing was published yet: the records alone may know it
    if settled is not None and (settled.facts["status"] != "unknown" or settled.proof is not None):
        return settled
    with _preview(home, asked) as connection:
        if found := matches(connection, asked):
            return load(connection, _only(asked, found), published=False)
    if settled is None:
        raise UnknownRequestError(asked)
    return settled


def _preview(home: Home, asked: str) -> duckdb.DuckDBPyConnection:
    """The contract tables over what was not built yet; a published receipt does not wait for the models to be loaded."""
    from etl.build import preview  # noqa: PLC0415  see above

    return preview(home, asked)


_OF_RUN = "SELECT request_id FROM ledger WHERE run_id = ? ORDER BY created_at, request_id"


def of_run(home: Home, run_id: str) -> tuple[Receipt, ...]:
    """Every receipt of one agent run in the order of creation: the published ones, else what is recorded since the last build.

    Raises UnknownRunError or, where nothing of it is recorded either, NoLedgerError.
    """
    missing: NoLedgerError | None = None
    try:
        with open_ledger(home) as connection:
            if found := connection.execute(_OF_RUN, [run_id]).fetchall():
                receipts = (load(connection, row[0], published=True) for row in found)
                return tuple(
                    replace(receipt, proof=inclusion(home, connection, receipt.request_id, receipt.facts["period"])) for receipt in receipts
                )
    except NoLedgerError as error:
        missing = error
    with _preview(home, run_id) as connection:
        if found := connection.execute(_OF_RUN, [run_id]).fetchall():
            return tuple(load(connection, row[0], published=False) for row in found)
    raise missing or UnknownRunError(run_id)
