"""Price catalogues that others publish, read into proposed rows of rates.csv; a person decides which of them go into the book.

Three shapes are known: genai-prices (its providers as JSON), LiteLLM's model_prices_and_context_window.json and the
answer of OpenRouter's /models. Numbers are read as decimals, never as floats. What a row of rates.csv cannot say, or
what would have to be guessed, is not proposed but listed with the reason.

A condition of one kind beside another would make two rows equally specific, so a conditional price is repeated for each
prompt length at which the plain price of its meter changes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any

from schemas.errors import UsageError
from schemas.instants import InstantError, parse_instant, write_instant
from schemas.money import EXACT, MoneyError, unit_price
from schemas.rates import COLUMNS, DAYS, Rate
from schemas.records import Instant

MILLION = Decimal(1_000_000)
THOUSAND = Decimal(1_000)
HOUR_S = Decimal(3_600)
ONE = Decimal(1)


class CatalogueError(UsageError):
    """A file that is not a catalogue of the shape that was named."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to take out of a catalogue, and for which channel."""

    channel: str
    currency: str
    zone: str  # the channel's, in which a row's hours and weekdays are read
    models: str  # a glob over model ids, case-sensitive
    vendor: str | None  # the catalogue's own name of the vendor; None: whichever sells a model
    since: Instant  # from when a price counts whose beginning the catalogue does not tell


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposed row of rates.csv."""

    model: str
    meter: str
    price: Decimal
    per: Decimal
    begin: Instant
    end: Instant | None = None
    tier: str | None = None
    threshold: int | None = None  # the whole prompt has at least so many tokens
    hours: str | None = None
    weekdays: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in the catalogue that is not proposed, and why."""

    model: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What a catalogue proposes and what it says beyond that."""

    proposals: tuple[Proposal, ...]
    left_out: tuple[LeftOut, ...]


Found = Iterator[Proposal | LeftOut]

NOT_UTC = "its hours are in UTC, and the channel's are in {}"
UNSAID = "rates.csv has no such condition or meter"


def read(kind: str, content: bytes, asked: Asked) -> Reading:
    """What the catalogue says of the models that are asked for, sorted by model; raises CatalogueError."""
    try:
        data = json.loads(content, parse_float=Decimal)
    except ValueError as error:
        raise CatalogueError(f"not JSON ({error})", f"see `tokenledger rates import --help` for how to get {kind}'s file") from None
    try:
        found = list(KINDS[kind](data, asked))
    except (AttributeError, KeyError, TypeError, IndexError, InvalidOperation) as error:
        words = f"not the shape of {kind}'s file ({type(error).__name__}: {error})"
        raise CatalogueError(words, f"name the right kind of file: {', '.join(KINDS)}") from None
    proposals = [one for one in found if isinstance(one, Proposal)]
    left_out = [one for one in found if isinstance(one, LeftOut)]
    exact = []
    for one in proposals:
        try:
            unit_price(one.price, one.per)
            exact.append(one)
        except MoneyError as error:
            left_out.append(LeftOut(one.model, one.meter, error.what))
    complete = (*exact, *_crossed(exact))
    return Reading(
        tuple(sorted(dict.fromkeys(complete), key=_order)), tuple(sorted(dict.fromkeys(left_out), key=lambda it: (it.model, it.what)))
    )


def _order(one: Proposal) -> tuple[Any, ...]:
    return (one.model, one.meter, one.tier or "", one.hours or "", one.weekdays or "", one.threshold or 0, one.begin)


def _crossed(proposals: Iterable[Proposal]) -> Iterator[Proposal]:
    """Conditional prices again for each prompt length that only the plain price of the meter knows."""
    plain: dict[tuple[str, str], set[int]] = {}
    named: dict[tuple[object, ...], set[int]] = {}
    conditional = []
    for one in proposals:
        condition = (one.tier, one.hours, one.weekdays)
        if one.threshold is None:
            conditional += [one] if any(condition) else []
        elif any(condition):
            named.setdefault((one.model, one.meter, *condition), set()).add(one.threshold)
        else:
            plain.setdefault((one.model, one.meter), set()).add(one.threshold)
    for one in conditional:
        own = named.get((one.model, one.meter, one.tier, one.hours, one.weekdays), set())
        for threshold in () if own else sorted(plain.get((one.model, one.meter), set())):
            yield replace(one, threshold=threshold)


def as_csv(proposals: Iterable[Proposal], asked: Asked, source: str, note: str) -> str:
    """The proposals as a file in the form of rates.csv, header included."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in proposals:
        dates = (write_instant(one.begin), "" if one.end is None else write_instant(one.end))
        conditions = (one.tier or "", one.threshold or "", one.hours or "", one.weekdays or "")
        what = (asked.channel, one.model, one.meter, _digits(one.price), _digits(one.per), asked.currency)
        writer.writerow((*what, *dates, "charge", *conditions, source, note))
    return out.getvalue()


def _digits(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True, slots=True)
class Change:
    """What a proposed row would change in the book: `new`, `changed`, `same`, or `gone` for a row that nothing proposes."""

    what: str
    row: Rate  # the proposed row; of what is gone, the book's
    before: Rate | None  # the book's row for the same thing at the instant at which the proposed one begins


def changes(book: Iterable[Rate], proposed: Iterable[Rate], at: Instant) -> tuple[Change, ...]:
    """Each proposed row beside the book's, then what the book has in force at `at` for the same models and is not proposed."""
    ours, theirs = tuple(book), tuple(proposed)
    history: dict[tuple[object, ...], list[Rate]] = {}
    for row in ours:
        history.setdefault(row.key, []).append(row)
    found = []
    for row in theirs:
        before = next((old for old in history.get(row.key, ()) if old.in_force(row.effective_from)), None)
        what = "new" if before is None else "same" if before.unit_price == row.unit_price else "changed"
        found.append(Change(what, row, before))
    keys = {row.key for row in theirs}
    models = {(row.book, row.channel, row.model) for row in theirs}
    gone = (row for row in ours if row.in_force(at) and row.key not in keys and (row.book, row.channel, row.model) in models)
    return (*found, *(Change("gone", row, row) for row in gone))


def _wanted(model: str, asked: Asked) -> bool:
    return fnmatchcase(model, asked.models)


# ---- genai-prices ----

GENAI_UNITS: Mapping[str, tuple[str, Decimal]] = {
    "input_mtok": ("input", MILLION),
    "output_mtok": ("output", MILLION),
    "cache_read_mtok": ("cached_input", MILLION),
    "cache_write_mtok": ("cache_write_5m", MILLION),
    "cache_write_5m_mtok": ("cache_write_5m", MILLION),
    "cache_write_1h_mtok": ("cache_write_1h", MILLION),
    "input_audio_mtok": ("audio_input", MILLION),
    "cache_audio_read_mtok": ("cached_audio_input", MILLION),
    "input_image_mtok": ("image_input", MILLION),
    "cache_image_read_mtok": ("cached_image_input", MILLION),
    "input_video_mtok": ("video_input", MILLION),
    "input_tool_mtok": ("tool_input", MILLION),
    "output_audio_mtok": ("audio_output", MILLION),
    "output_image_mtok": ("image_output", MILLION),
    "output_reasoning_mtok": ("reasoning", MILLION),
    "audio_hours": ("second", HOUR_S),
    "input_audio_hours": ("second", HOUR_S),
    "input_document_kpages": ("page", THOUSAND),
    "input_mchars": ("character", MILLION),
    "input_text_messages_kcount": ("text_message", THOUSAND),
    "requests_kcount": ("request", THOUSAND),
    "web_searches_kcount": ("search_call", THOUSAND),
    "storage_searches_kcount": ("file_search_call", THOUSAND),
    "social_searches_kcount": ("social_search_call", THOUSAND),
    "rerank_searches_kcount": ("search_unit", THOUSAND),
}
# OpenAI keeps what was written to its cache for 30 minutes, and reports it so.
GENAI_CACHE_WRITES = {"openai": "cache_write_30m", "azure": "cache_write_30m"}
# Which request contexts are service tiers here; an ordinary one is None.
GENAI_TIERS: Mapping[tuple[str, str], str | None] = {
    ("service_tier", "default"): None,
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "fast",
    ("processing", "batch"): "batch",
    ("speed", "fast"): "fast",
}


@dataclass(frozen=True, slots=True)
class _Segment:
    """Prices that count from an instant (None: since before the catalogue knows) until the next segment."""

    begin: Instant | None
    end: Instant | None
    prices: Mapping[str, Any]


def _genai(data: Any, asked: Asked) -> Found:
    for provider in data:
        if asked.vendor not in (None, provider["id"]):
            continue
        for model in provider["models"]:
            for name in dict.fromkeys([model["id"], *_equals(model["match"])]):
                if _wanted(name, asked):
                    yield from _genai_model(provider["id"], name, model, asked)


def _equals(clause: Mapping[str, Any]) -> Iterator[str]:
    """The exact names in a match clause; what starts or ends like something is no id that a row can name."""
    if "equals" in clause:
        yield clause["equals"]
    for inner in clause.get("or_") or clause.get("or") or ():
        yield from _equals(inner)


def _genai_model(provider: str, name: str, model: Mapping[str, Any], asked: Asked) -> Found:
    prices = model["prices"]
    entries = prices if isinstance(prices, list) else [{"prices": prices}]
    dated = [(place, _start(entry), entry["prices"]) for place, entry in enumerate(entries) if not _clock(entry)]
    begins: list[Instant | None] = [None, *sorted({start for _, start, _ in dated if start is not None})]
    for n, begin in enumerate(begins):
        end = begins[n + 1] if n + 1 < len(begins) else None
        # of the entries that are active, the last one counts
        active = [entry for entry in dated if entry[1] is None or (begin is not None and entry[1] <= begin)]
        if not active:
            continue
        place, _, base = active[-1]
        yield from _genai_rows(provider, name, _Segment(begin, end, base), asked)
        for hours in [_clock(entry) for entry in entries[place + 1 :] if _clock(entry)]:
            assert hours is not None
            if asked.zone != "UTC":
                yield LeftOut(name, f"prices at {hours[0]}", NOT_UTC.format(asked.zone))
            else:
                yield from _genai_rows(provider, name, _Segment(begin, end, hours[1]), asked, hours=hours[0])
    yield from _genai_variants(provider, name, model.get("price_variants") or (), asked)


def _genai_variants(provider: str, name: str, variants: Iterable[Mapping[str, Any]], asked: Asked) -> Found:
    by_tier: dict[str, list[tuple[Instant | None, Mapping[str, Any]]]] = {}
    for variant in variants:
        contexts = [GENAI_TIERS.get(item, item) for item in variant["when"].items()]
        if len(contexts) != 1 or isinstance(contexts[0], tuple):
            yield LeftOut(name, " ".join(f"{key}={value}" for key, value in variant["when"].items()), UNSAID)
        elif contexts[0] is not None:
            by_tier.setdefault(contexts[0], []).append((_start(variant), variant["prices"]))
    for tier, dated in by_tier.items():
        known = sorted({start for start, _ in dated if start is not None})
        begins: list[Instant | None] = [None, *known] if any(start is None for start, _ in dated) else [*known]
        for n, begin in enumerate(begins):
            prices: dict[str, Any] = {}
            for start, named in dated:
                if start is None or (begin is not None and start <= begin):
                    # of the variants that are active, the first one that names a price counts
                    prices = {**named, **prices}
            yield from _genai_rows(
                provider, name, _Segment(begin, begins[n + 1] if n + 1 < len(begins) else None, prices), asked, tier=tier
            )


def _genai_rows(provider: str, name: str, segment: _Segment, asked: Asked, *, tier: str | None = None, hours: str | None = None) -> Found:
    if segment.begin is None and segment.end is not None and segment.end <= asked.since:
        yield LeftOut(name, f"prices until {write_instant(segment.end)}", "the catalogue does not tell since when they counted")
        return
    begin = asked.since if segment.begin is None else segment.begin
    for key, price in segment.prices.items():
        if price is None:
            continue
        if key not in GENAI_UNITS:
            yield LeftOut(name, key, UNSAID)
            continue
        meter, per = GENAI_UNITS[key]
        if key == "cache_write_mtok":
            meter = GENAI_CACHE_WRITES.get(provider, meter)
        steps = price if isinstance(price, dict) else {"base": price, "tiers": ()}
        row = Proposal(name, meter, Decimal(str(steps["base"])), per, begin, segment.end, tier, hours=hours)
        yield row
        for step in steps["tiers"]:
            # a step counts above its start
            yield replace(row, price=Decimal(str(step["price"])), threshold=step["start"] + 1)


def _start(entry: Mapping[str, Any]) -> Instant | None:
    """The beginning of the day on which an entry starts, in UTC."""
    text = (entry.get("constraint") or {}).get("start_date")
    try:
        return None if text is None else parse_instant(f"{text}T00:00:00Z")
    except InstantError as error:
        raise CatalogueError(f"start_date {text!r}: {error.what}", "correct the file") from None


def _clock(entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    constraint = entry.get("constraint") or {}
    if "start_time" not in constraint:
        return None
    return f"{constraint['start_time'][:5]}-{constraint['end_time'][:5]}", entry["prices"]


# ---- LiteLLM ----

LITELLM_UNITS: Mapping[str, tuple[str, Decimal]] = {
    "input_cost_per_token": ("input", MILLION),
    "output_cost_per_token": ("output", MILLION),
    "cache_read_input_token_cost": ("cached_input", MILLION),
    "cache_creation_input_token_cost": ("cache_write_5m", MILLION),
    "cache_creation_input_token_cost_above_1hr": ("cache_write_1h", MILLION),
    "input_cost_per_audio_token": ("audio_input", MILLION),
    "cache_read_input_audio_token_cost": ("cached_audio_input", MILLION),
    "input_cost_per_image_token": ("image_input", MILLION),
    "cache_read_input_image_token_cost": ("cached_image_input", MILLION),
    "input_cost_per_video_token": ("video_input", MILLION),
    "citation_cost_per_token": ("citation", MILLION),
    "output_cost_per_reasoning_token": ("reasoning", MILLION),
    "output_cost_per_audio_token": ("audio_output", MILLION),
    "output_cost_per_image_token": ("image_output", MILLION),
    "input_cost_per_request": ("request", ONE),
    "input_cost_per_character": ("character", MILLION),
    "input_cost_per_second": ("second", ONE),
    "output_cost_per_image": ("image", ONE),
    "ocr_cost_per_page": ("page", ONE),
    "annotation_cost_per_page": ("annotated_page", ONE),
    "code_interpreter_cost_per_session": ("code_session", ONE),
    "file_search_cost_per_1k_calls": ("file_search_call", THOUSAND),
}
LITELLM_CACHE_WRITES = {"openai": "cache_write_30m", "azure": "cache_write_30m"}
LITELLM_TIERS = {"batches": "batch", "flex": "flex", "priority": "priority", "ultrafast": "ultrafast", "balanced": "balanced"}
# For everybody else a threshold is above the number; for these it is the number itself.
LITELLM_INCLUSIVE = frozenset({"xai"})
_LITELLM_KEY = re.compile(
    r"(?P<base>[a-z_]+?(?:_above_1hr)?)(?:_above_(?P<k>\d+)k_tokens)?(?:_(?P<tier>batches|flex|priority|ultrafast|balanced))?"
)
_LITELLM_MONEY = re.compile(r"cost|pric|multiplier|provider_specific_entry")
_NOT_MONEY = frozenset({"web_search_billing_unit"})


def _litellm(data: Any, asked: Asked) -> Found:
    for name, model in data.items():
        vendor = model.get("litellm_provider")
        if name == "sample_spec" or asked.vendor not in (None, vendor):
            continue
        # ids are written vendor/id for all but the largest vendors; the channel is sent the id
        sent = name.removeprefix(f"{vendor}/")
        if _wanted(sent, asked):
            yield from _litellm_model(sent, vendor, model, asked)


def _litellm_model(name: str, vendor: str | None, model: Mapping[str, Any], asked: Asked) -> Found:
    for key, value in model.items():
        if key == "off_peak_pricing":
            yield from _litellm_hours(name, vendor, value, asked)
        elif key == "tiered_pricing":
            for step in value:
                low = int(step.get("range", [0])[0])
                for inner, price in step.items():
                    if inner != "range":
                        yield _litellm_row(name, vendor, inner, price, asked, threshold=low + 1 if low else None)
        elif key == "search_context_cost_per_query":
            prices = set(value.values())
            if len(prices) == 1:
                yield Proposal(name, "search_call", EXACT.multiply(prices.pop(), THOUSAND), THOUSAND, asked.since)
            else:
                yield LeftOut(name, key, "it depends on the size of the search's context, which no row can name")
        elif _LITELLM_MONEY.search(key) and key not in _NOT_MONEY and value is not None:
            yield _litellm_row(name, vendor, key, value, asked)


def _litellm_row(name: str, vendor: str | None, key: str, value: Any, asked: Asked, *, threshold: int | None = None) -> Proposal | LeftOut:
    parts = _LITELLM_KEY.fullmatch(key)
    if parts is None or parts["base"] not in LITELLM_UNITS or isinstance(value, (str, dict, list)):
        return LeftOut(name, key, UNSAID)
    meter, per = LITELLM_UNITS[parts["base"]]
    if meter == "cache_write_5m":
        meter = LITELLM_CACHE_WRITES.get(vendor or "", meter)
    if parts["k"]:
        threshold = int(parts["k"]) * 1000 + (0 if vendor in LITELLM_INCLUSIVE else 1)
    # the file states some prices for one unit and some for a thousand, as its key says
    price = Decimal(value) if per == THOUSAND else EXACT.multiply(Decimal(value), per)
    return Proposal(name, meter, price, per, asked.since, tier=LITELLM_TIERS.get(parts["tier"] or ""), threshold=threshold)


def _litellm_hours(name: str, vendor: str | None, schedule: Mapping[str, Any], asked: Asked) -> Found:
    prices = {key: value for key, value in schedule.items() if key in LITELLM_UNITS}
    for key in sorted(set(schedule) - set(prices) - {"windows", "hours_utc", "weekdays"}):
        yield LeftOut(name, f"off_peak_pricing.{key}", UNSAID)
    if asked.zone != "UTC" or "weekday_timezone" in schedule:
        yield LeftOut(name, "off_peak_pricing", NOT_UTC.format(asked.zone))
        return
    for window in schedule.get("windows", [schedule]):
        days = window.get("weekdays")
        weekdays = ",".join(DAYS[day - 1] for day in sorted(days)) if days and len(days) < len(DAYS) else None
        hours = window["hours_utc"]
        for span in [hours] if isinstance(hours, str) else hours:
            for key, value in prices.items():
                row = _litellm_row(name, vendor, key, value, asked)
                whole = span[:5] == span[6:]
                yield replace(row, hours=None if whole else span, weekdays=weekdays) if isinstance(row, Proposal) else row


# ---- OpenRouter ----

OPENROUTER_UNITS: Mapping[str, tuple[str, Decimal]] = {
    "prompt": ("input", MILLION),
    "completion": ("output", MILLION),
    "request": ("request", ONE),
    "image_token": ("image_input", MILLION),
    "image_output": ("image_output", MILLION),
    "audio": ("audio_input", MILLION),
    "audio_output": ("audio_output", MILLION),
    "input_audio_cache": ("cached_audio_input", MILLION),
    "input_cache_read": ("cached_input", MILLION),
    "input_cache_write": ("cache_write_5m", MILLION),
    "input_cache_write_1h": ("cache_write_1h", MILLION),
    "internal_reasoning": ("reasoning", MILLION),
    "web_search": ("search_call", ONE),
}
_OPENROUTER_CONDITIONS = frozenset({"min_prompt_tokens", "utc_start", "utc_end", "utc_days"})
_OPENROUTER_DAYS = {name: day for day in DAYS for name in (day, {"tue": "tues", "thu": "thurs"}.get(day, day))}


def _openrouter(data: Any, asked: Asked) -> Found:
    for model in data["data"]:
        name, pricing = model["id"], model["pricing"]
        if not _wanted(name, asked) or asked.vendor not in (None, name.partition("/")[0]):
            continue
        yield from _openrouter_rows(name, pricing, asked, {})
        for override in pricing.get("overrides") or ():
            conditions = _openrouter_conditions(override, asked)
            if isinstance(conditions, str):
                yield LeftOut(name, "overrides", conditions)
            else:
                yield from _openrouter_rows(name, override, asked, conditions)


def _openrouter_conditions(override: Mapping[str, Any], asked: Asked) -> dict[str, Any] | str:
    """The conditions of an override as fields of a proposal, or why they cannot be told."""
    found: dict[str, Any] = {}
    if "min_prompt_tokens" in override:
        found["threshold"] = int(override["min_prompt_tokens"]) + 1  # it counts above that many
    if "utc_start" in override or "utc_days" in override:
        if asked.zone != "UTC":
            return NOT_UTC.format(asked.zone)
        if "utc_start" in override:
            begin, end = (str(override[name]).zfill(4) for name in ("utc_start", "utc_end"))
            found["hours"] = f"{begin[:2]}:{begin[2:]}-{end[:2]}:{end[2:]}"
        if "utc_days" in override:
            days = [_OPENROUTER_DAYS.get(str(day).lower()[:3]) for day in override["utc_days"]]
            if None in days:
                return f"its days {override['utc_days']} are not days of the week by name"
            found["weekdays"] = ",".join(day for day in DAYS if day in days)
    return found


def _openrouter_rows(name: str, prices: Mapping[str, Any], asked: Asked, conditions: Mapping[str, Any]) -> Found:
    for key, value in prices.items():
        if key in _OPENROUTER_CONDITIONS or key == "overrides" or value is None:
            continue
        price = Decimal(str(value)) if isinstance(value, (str, int, Decimal)) else None
        if key not in OPENROUTER_UNITS or price is None:
            if price != 0:
                yield LeftOut(name, key, UNSAID)
            continue
        meter, per = OPENROUTER_UNITS[key]
        if price < 0:
            yield LeftOut(name, key, "a negative price: it depends on where the request is sent")
        elif price or meter in ("input", "output"):
            # a zero beside the tokens' prices means "not priced apart"; as a row it would make reasoning or cached tokens free
            yield Proposal(name, meter, EXACT.multiply(price, per), per, asked.since, **conditions)


KINDS: Mapping[str, Callable[[Any, Asked], Found]] = {"genai-prices": _genai, "litellm": _litellm, "openrouter": _openrouter}
