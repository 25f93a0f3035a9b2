"""The book as Arrow tables: the sources from which the ETL's models read it. Unknown and "any" are null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from schemas.fx import Fx
from schemas.policies import Policy
from schemas.rates import Rate, bounds_of
from schemas.registry import Channel, Key, Model
from schemas.terms import Term

TEXT = pa.string()
FLAG = pa.bool_()
INTEGER = pa.int64()
INSTANT = pa.timestamp("us")
UNIT_PRICE = pa.decimal128(18, 12)
AMOUNT = pa.decimal128(38, 12)

# Of each table: what one row means, and its columns with type, nullability and meaning.
Column = tuple[str, pa.DataType, bool, str]
TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "book_channel": (
        "one upstream channel",
        (
            ("name", TEXT, False, "the channel's name"),
            ("base_url", TEXT, False, "where it is, without a slash at the end"),
            ("route", TEXT, False, "official | routed | pool"),
            ("bucket", TEXT, False, "the balance that pays"),
            ("vendor", TEXT, False, "who sends the bill"),
            ("timezone", TEXT, False, "the vendor's zone, UTC where none was written"),
            ("usage_dialect", TEXT, True, "how it reports usage, null: told from the message"),
            ("rounding_unit", AMOUNT, True, "each charge is rounded to a multiple of this"),
            ("rounding_minimum", AMOUNT, True, "the least that one request is charged"),
            ("is_default", FLAG, False, "takes the models that are not listed"),
        ),
    ),
    "book_model": (
        "one model that clients ask for",
        (("public", TEXT, False, "the name people see"), ("api", TEXT, False, "the id clients send")),
    ),
    "book_model_channel": (
        "one way to a model",
        (
            ("api", TEXT, False, "the id clients send"),
            ("position", INTEGER, False, "0 is the primary, the rest are backups in order"),
            ("channel", TEXT, False, "the channel's name"),
            ("upstream", TEXT, False, "the model id sent to that channel"),
        ),
    ),
    "book_key": (
        "what was known of one credential from one instant to another",
        (
            ("id", TEXT, False, "the key's stable id"),
            ("label", TEXT, False, "the name people see"),
            ("fingerprint", TEXT, False, "keyed hash of the credential"),
            ("user", TEXT, True, "who uses it"),
            ("project", TEXT, True, "what it is used for"),
            ("wallet", TEXT, False, "which wallet pays"),
            ("trusted", FLAG, False, "its x-ledger-* headers win over the registry"),
            ("enforce", FLAG, False, "the gateway refuses what is not allowed"),
            ("models", TEXT, True, "the only model ids it may ask for, as a JSON list; null: any"),
            ("routes", TEXT, True, "the only routes it may take, as a JSON list; null: any"),
            ("expires", INSTANT, True, "it is refused from here on, null: never"),
            ("monthly_limit", AMOUNT, True, "the most it may spend in a month"),
            ("valid_from", INSTANT, True, "inclusive, null: since ever"),
            ("valid_to", INSTANT, True, "exclusive, null: for ever"),
        ),
    ),
    "book_rate": (
        "one price",
        (
            ("rate_id", TEXT, False, "a hash of what the row says"),
            ("line", INTEGER, False, "its line in rates.csv"),
            ("channel", TEXT, False, "a channel's name or *"),
            ("model", TEXT, False, "an upstream model id or *"),
            ("meter", TEXT, False, "what is priced"),
            ("unit_price", UNIT_PRICE, False, "of one unit"),
            ("price", AMOUNT, False, "as written, for `per` units"),
            ("per", AMOUNT, False, "units the price is for"),
            ("currency", TEXT, False, "ISO 4217"),
            ("effective_from", INSTANT, False, "inclusive"),
            ("effective_to", INSTANT, True, "exclusive, null: no end"),
            ("book", TEXT, False, "charge | list"),
            ("service_tier", TEXT, True, "null: any"),
            ("min_input_tokens", INTEGER, True, "the whole prompt has at least so many tokens, null: any"),
            ("hours", TEXT, True, "HH:MM-HH:MM in the channel's zone, null: any"),
            ("minute_from", INTEGER, True, "first minute of `hours`, counted from local midnight"),
            ("minute_to", INTEGER, True, "the minute after its last; not above minute_from where it crosses midnight"),
            ("weekdays", TEXT, True, "local days, for example mon,tue; null: any"),
            ("region", TEXT, True, "where the vendor processed it, null: any"),
            ("endpoint", TEXT, True, "the endpoint or path, null: any"),
            ("marginal", FLAG, False, "only the tokens of the prompt from min_input_tokens on"),
            ("specificity", INTEGER, False, "the largest that applies wins"),
            ("source", TEXT, False, "where the price was read"),
            ("note", TEXT, False, "the writer's words"),
        ),
    ),
    "book_term": (
        "one term of a contract beside its prices",
        (
            ("term_id", TEXT, False, "a hash of what the row says"),
            ("line", INTEGER, False, "its line in terms.csv"),
            ("channel", TEXT, False, "a channel's name or *"),
            ("model", TEXT, False, "an upstream model id or *"),
            ("meter", TEXT, False, "a meter, which stands for those inside it too, or *"),
            ("term", TEXT, False, "multiplier | minimum | step | allowance_day | allowance_month"),
            ("slot", TEXT, False, "of the rows of one slot one applies: the term, or allowance"),
            ("value", AMOUNT, False, "as written"),
            ("multiplier", UNIT_PRICE, True, "a multiplier's value"),
            ("quantity", INTEGER, True, "every other term's value, in units of the meter"),
            ("pool", TEXT, True, "which allowance it is: rows with one name count together; null for other terms"),
            ("effective_from", INSTANT, False, "inclusive"),
            ("effective_to", INSTANT, True, "exclusive, null: no end"),
            ("source", TEXT, False, "where the term was read"),
            ("note", TEXT, False, "the writer's words"),
        ),
    ),
    "book_fx": (
        "one exchange rate",
        (
            ("fx_id", TEXT, False, "a hash of what the row says"),
            ("line", INTEGER, False, "its line in fx.csv"),
            ("currency", TEXT, False, "the foreign currency or credit"),
            ("rate", UNIT_PRICE, False, "units of the book's currency for one of it"),
            ("effective_from", INSTANT, False, "inclusive"),
            ("effective_to", INSTANT, True, "exclusive, null: no end"),
            ("source", TEXT, False, "where the rate was read"),
            ("note", TEXT, False, "the writer's words"),
        ),
    ),
    "book_policy": (
        "what one outcome of a failed request costs",
        (
            ("policy_id", TEXT, False, "a hash of what the row says"),
            ("line", INTEGER, False, "its line in failed_requests.csv"),
            ("policy", TEXT, False, "the name people see"),
            ("channel", TEXT, False, "a channel's name or *"),
            ("outcome", TEXT, False, "how the request ended"),
            ("charge", TEXT, False, "none | input | observed | reported | flat"),
            ("flat_amount", AMOUNT, True, "the amount of a flat charge"),
            ("effective_from", INSTANT, False, "inclusive"),
            ("effective_to", INSTANT, True, "exclusive, null: no end"),
            ("note", TEXT, False, "the writer's words"),
        ),
    ),
}


def schema_of(name: str) -> pa.Schema:
    """The Arrow schema of one table, with what it and its columns mean as descriptions."""
    doc, columns = TABLES[name]
    fields = [pa.field(column, kind, nullable, {"description": meaning}) for column, kind, nullable, meaning in columns]
    return pa.schema(fields, {"description": doc})


def book_tables(
    channels: Sequence[Channel],
    models: Sequence[Model],
    keys: Sequence[Key],
    rates: Sequence[Rate],
    terms: Sequence[Term],
    fx: Sequence[Fx],
    policies: Sequence[Policy],
) -> dict[str, pa.Table]:
    """Every table of TABLES, rows in the order of their file."""
    rows: dict[str, Iterable[dict[str, Any]]] = {
        "book_channel": map(_channel, channels),
        "book_model": ({"public": model.public, "api": model.api} for model in models),
        "book_model_channel": (
            {"api": model.api, "position": n, "channel": way.name, "upstream": way.upstream}
            for model in models
            for n, way in enumerate(model.channel)
        ),
        "book_key": map(_key, keys),
        "book_rate": map(_rate, rates),
        "book_term": map(_term, terms),
        "book_fx": (row.model_dump() for row in fx),
        "book_policy": (policy.model_dump() for policy in policies),
    }
    return {name: pa.Table.from_pylist(list(rows[name]), schema_of(name)) for name in TABLES}


def _channel(channel: Channel) -> dict[str, Any]:
    plain = channel.model_dump(include={"name", "base_url", "route", "bucket", "vendor", "usage_dialect"})
    rounding = channel.rounding
    return {
        **plain,
        "timezone": channel.timezone or "UTC",
        "rounding_unit": rounding.unit if rounding else None,
        "rounding_minimum": rounding.minimum if rounding else None,
        "is_default": channel.default,
    }


def _key(key: Key) -> dict[str, Any]:
    lists = {
        name: None if value is None else json.dumps(value, ensure_ascii=False)
        for name, value in (("models", key.models), ("routes", key.routes))
    }
    return {**key.model_dump(), **lists}


def _rate(rate: Rate) -> dict[str, Any]:
    begin, end = bounds_of(rate.hours) if rate.hours else (None, None)
    return {**rate.model_dump(), "minute_from": begin, "minute_to": end, "specificity": rate.specificity}


def _term(term: Term) -> dict[str, Any]:
    is_multiplier = term.term == "multiplier"
    return {
        **term.model_dump(),
        "slot": term.slot,
        "multiplier": term.value if is_multiplier else None,
        "quantity": None if is_multiplier else int(term.value),
        "pool": term.shared,
    }
