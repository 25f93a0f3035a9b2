"""What people register: settings, channels, models and keys, as their four TOML files say it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from schemas.bookfile import Path, Problem, RefusedError, TomlFile, closest, shown
from schemas.instants import InstantError, from_datetime, parse_instant
from schemas.money import MoneyError, amount, parse_decimal
from schemas.records import Instant

Route = Literal["official", "routed", "pool"]
# Dialects that a message need not tell by itself; the same words stand in etl/tables/usage_places.csv.
UsageDialect = Literal["gemini", "perplexity", "xai"]
RetryOn = int | Literal["connect", "timeout"]

# What the official SDKs call temporary, and 529 (an overloaded vendor). A call that timed out may have been billed and
# has cost its whole time limit, so it is not tried again on the same channel by default.
RETRY_ON: tuple[RetryOn, ...] = (408, 409, 429, 500, 502, 503, 504, 529, "connect")
# The same, a timeout, and 402: a marketplace whose balance is spent. Not 401 and 403: a wrong credential is a fault of
# the set-up, and a fallback would hide it while it costs money.
FALLBACK_ON: tuple[RetryOn, ...] = (402, 408, 409, 429, 500, 502, 503, 504, 529, "connect", "timeout")


def _text(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable() or len(value) > 200:
        raise RefusedError("not a plain text of 1 to 200 characters", "write one line without spaces at its ends")
    return value


def _pattern(pattern: str, cure: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise RefusedError("not of the form asked for", cure)
        return value

    return AfterValidator(check)


def zone(value: str) -> str:
    """An IANA time zone name; raises RefusedError."""
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RefusedError("no such time zone", "use an IANA name, for example UTC or Europe/Berlin") from None
    if value in ("localtime", "Factory"):
        raise RefusedError("depends on the machine", "use an IANA name, for example UTC or Europe/Berlin")
    return value


def _base_url(value: str) -> str:
    cure = "write http://HOST[:PORT]/PATH or https://…, with no credentials, query or fragment"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise RefusedError("not a URL", cure) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or not value.isascii()
        or not value.isprintable()
        or " " in value
    ):
        raise RefusedError("not an http or https URL", cure)
    if parts.query or parts.fragment or "?" in value or "#" in value or "@" in parts.netloc:
        raise RefusedError("has credentials, a query or a fragment", cure)
    return value.rstrip("/")


def _host(value: str) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", value)
    if not found or (found[2] and not 0 < int(found[2]) < 65536):
        raise RefusedError(
            "not a host or host:port", "write a host name without scheme or path, for example api.example.com or localhost:9000"
        )
    return value.lower()


def _network(value: str) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise RefusedError("not a network", "write an address, or a network such as 10.0.0.0/8 or fd00::/8") from None


def _retry_on(value: Any) -> tuple[RetryOn, ...]:
    cure = 'list statuses from 400 to 599, "connect" and "timeout"'
    if not isinstance(value, tuple):
        raise RefusedError("not a list", cure)
    for item in value:
        if item not in ("connect", "timeout") and (type(item) is not int or not 400 <= item <= 599):
            raise RefusedError(f"{shown('', item)} is not a failure that can be tried again", cure)
    return tuple(dict.fromkeys(value))


def _distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value or len(set(value)) != len(value):
        raise RefusedError("empty, or names something twice", "list each once; leave the field out to allow all")
    return value


def _instant(value: Any) -> Instant:
    try:
        if isinstance(value, datetime):
            return from_datetime(value)
        return parse_instant(value if isinstance(value, str) else "")
    except InstantError as error:
        raise RefusedError(error.what, error.cure) from None


def _decimal_text(value: Any) -> Decimal:
    if not isinstance(value, str):
        raise RefusedError(
            "not a decimal text",
            f'put it in quotes: "{value}"' if isinstance(value, (int, float)) else 'write a decimal in quotes, for example "25.00"',
        )
    try:
        found = amount(parse_decimal(value))
    except MoneyError as error:
        raise RefusedError(error.what, error.cure) from None
    if found < 0:
        raise RefusedError("less than zero", "write a decimal of zero or more")
    return found


def _above_zero(value: Decimal) -> Decimal:
    if not value:
        raise RefusedError("is zero", "write a decimal above zero, or leave the field out")
    return value


Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, _pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "use letters, digits, '.', '_' and '-', at most 64")]
Word = Annotated[str, _pattern(r"[a-z0-9_]{1,64}", "use small letters, digits and '_', for example routed_balance")]
Wallet = Annotated[Text, _pattern(r"[^:]+", "write a name without ':', which parts account names")]
Zone = Annotated[str, AfterValidator(zone)]
When = Annotated[Instant, BeforeValidator(_instant)]
Money = Annotated[Decimal, BeforeValidator(_decimal_text)]
Conditions = Annotated[tuple[RetryOn, ...], PlainValidator(_retry_on)]


class Entry(BaseModel):
    """Something registered: strict, frozen, and with no fields but its own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", populate_by_name=True)


class Capture(Entry):
    """`[capture]`: what is kept of the messages."""

    bodies: Literal["keep", "encrypted", "digest"] = Field(
        default="keep", description="keep the bytes, keep them encrypted under a key of their subject, or keep only their digest"
    )
    body_days: int = Field(default=30, ge=0, le=36500, description="days that kept bytes stay at least; they go once their month is closed")


class Forward(Entry):
    """`[forward]`: the forward door."""

    unrecorded: Literal["allow", "refuse"] = Field(
        default="allow", description="traffic that cannot be recorded passes (a loss), or is refused"
    )


class Gateway(Entry):
    """`[gateway]`: the gateway door."""

    unrecorded: Literal["allow", "refuse"] = Field(
        default="refuse", description="traffic that cannot be recorded is refused, or passes (a loss)"
    )
    drain_after_client_gone_s: int = Field(
        default=120, ge=0, le=86400, description="seconds to read on for the usage after the client left"
    )


class Raw(Entry):
    """`[raw]`: where sealed files lie."""

    store: Annotated[str, _pattern(r"[a-z0-9]+://.+", "write it as s3://BUCKET/PREFIX")] | None = Field(
        default=None, description="an object store that many sidecars share; raw/ then holds the same"
    )


class Settings(Entry):
    """book.toml."""

    currency: Annotated[str, _pattern(r"[A-Z]{3}", "use the three capital letters of ISO 4217, for example USD")] = "USD"
    timezone: Zone = Field(default="UTC", description="months are half-open intervals of this zone")
    close_after_h: int = Field(default=24, ge=0, le=8760, description="hours after its end that a month may close")
    unknown_keys: Literal["record", "refuse"] = Field(default="record", description="a key that is not registered is recorded, or refused")
    second_person_above: Money | None = Field(default=None, description="an adjustment above this amount needs a second person")
    private_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(
        default=(), description="hosts that may lie at private or loopback addresses, beside channels written as such"
    )
    allowed_clients: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        default=(), description="networks whose clients may use doors that listen beyond loopback"
    )
    capture: Capture = Capture()
    forward: Forward = Forward()
    gateway: Gateway = Gateway()
    raw: Raw = Raw()


class Rounding(Entry):
    """A vendor's rounding rule, as an inline table with decimal texts."""

    unit: Annotated[Money, AfterValidator(_above_zero)] = Field(description="each charge is rounded to a multiple of this")
    minimum: Money | None = Field(default=None, description="the least that one request is charged")


class Channel(Entry):
    """`[[channel]]`: one upstream, and the balance that pays for it."""

    name: Name
    base_url: Annotated[str, AfterValidator(_base_url)]
    route: Route
    bucket: Word = Field(description="the balance that pays, for example official_credit")
    vendor: Text = Field(description="who sends the bill; the channel's name where absent")
    api_key_env: (
        Annotated[str, _pattern(r"[A-Za-z_][A-Za-z0-9_]*", "write the NAME of an environment variable, never the key itself")] | None
    ) = None
    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(default=(), description="a list of host names")
    timeout_s: float = Field(default=600.0, gt=0, le=86400, description="seconds an attempt may go without a byte")
    max_retries: int = Field(default=2, ge=0, le=10, description="tries again on this channel")
    retry_on: Conditions = RETRY_ON
    fallback_on: Conditions = FALLBACK_ON
    tls_unverified: bool = Field(default=False, description="its certificate is not checked; told at each start and in data_quality")
    inject_usage: bool = Field(default=False, description="the gateway asks for usage in streams")
    usage_dialect: UsageDialect | None = Field(
        default=None, description="how this vendor reports usage, where it cannot be told from the message"
    )
    rounding: Rounding | None = None
    timezone: Zone | None = Field(default=None, description="the vendor's zone, for time-of-day prices; UTC where absent")
    default: bool = Field(default=False, description="models that are not listed go here")

    @model_validator(mode="before")
    @classmethod
    def _vendor_is_the_channel(cls, data: Any) -> Any:
        return {"vendor": data["name"], **data} if isinstance(data, dict) and isinstance(data.get("name"), str) else data


class ModelChannel(Entry):
    """`[[model.channel]]`: one way to a model."""

    name: Text = Field(description="a channel's name")
    upstream: Text = Field(description="the model id sent to that channel")


class Model(Entry):
    """`[[model]]`: what clients ask for, and the ways to it: the first is the primary, the rest are backups."""

    public: Text = Field(description="the name people see")
    api: Text = Field(description="the id clients send")
    channel: tuple[ModelChannel, ...] = Field(min_length=1, description="one or more [[model.channel]] entries")


class Key(Entry):
    """`[[key]]`: what is known of one credential from one instant to another; rows with the same id are its history."""

    id: Name
    label: Text = Field(description="the name people see")
    fingerprint: Annotated[
        str, _pattern(r"fp_[0-9a-f]{32}", "register keys with `tokenledger key add`, which makes the fingerprint; never write a key here")
    ]
    user: Text | None = Field(default=None, description="who uses it")
    project: Text | None = Field(default=None, description="what it is used for")
    wallet: Wallet = Field(description="which wallet pays")
    models: Annotated[tuple[Text, ...], AfterValidator(_distinct)] | None = Field(
        default=None, description="the only model ids it may ask for"
    )
    routes: Annotated[tuple[Route, ...], AfterValidator(_distinct)] | None = Field(default=None, description="the only routes it may take")
    expires: When | None = None
    monthly_limit: Money | None = None
    enforce: bool = Field(default=False, description="the gateway refuses what is not allowed, instead of flagging it")
    trusted: bool = Field(default=False, description="its x-ledger-* headers win over this registry")
    valid_from: When | None = Field(default=None, alias="from")
    valid_to: When | None = Field(default=None, alias="to", description="exclusive; where absent, until the id's next row")


EntryType = TypeVar("EntryType", bound=Entry)


# ---- files to entries ----


def _problem(source: TomlFile, place: Path, error: Any, model: type[Entry]) -> Problem:
    """One pydantic error as a Problem; `place` is where the table stands that was validated."""
    loc: Path = tuple(part for part in error["loc"])
    names = [part for part in loc if isinstance(part, str) and part.isidentifier()]
    field = ".".join(names) or ".".join(part for part in (*place, *loc) if isinstance(part, str)) or "(no name)"
    line = source.line((*place, *loc))
    kind = error["type"]
    owner, name = _owner(model, loc)
    known = {info.alias or name for name, info in owner.model_fields.items()}
    if kind == "missing":
        return Problem(source.file, line, field, None, "is missing", f"add `{name} = …`{_meaning(owner, name)}")
    value = shown(name, error["input"], unknown=kind == "extra_forbidden")
    if kind == "extra_forbidden":
        return Problem(source.file, line, field, value, "not a field of this table", closest(name, known))
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, RefusedError):
        return Problem(source.file, line, field, value, cause.what, cause.cure)
    return Problem(source.file, line, field, value, error["msg"][0].lower() + error["msg"][1:], f"mend the value{_meaning(owner, name)}")


def _owner(model: type[Entry], loc: Path) -> tuple[type[Entry], str]:
    """The entry class and the field name that a pydantic error's place points into."""
    name = ""
    for part in loc:
        if not isinstance(part, str):
            continue
        info = next((info for key, info in model.model_fields.items() if part in (key, info.alias)), None)
        if info is None:
            return model, part
        name = part
        inner = [kind for kind in _kinds(info.annotation) if isinstance(kind, type) and issubclass(kind, Entry)]
        if inner and part != loc[-1]:
            model = inner[0]
    return model, name


def _kinds(annotation: Any) -> Iterable[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _kinds(inner)


def _meaning(model: type[Entry], name: str) -> str:
    doc = next((info.description for key, info in model.model_fields.items() if name in (key, info.alias)), None)
    return f" ({doc})" if doc else ""


def _validated(source: TomlFile, place: Path, data: Any, model: type[EntryType], problems: list[Problem]) -> EntryType | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems.extend(_problem(source, place, item, model) for item in error.errors(include_url=False))
        return None


def _tables(source: TomlFile, name: str, model: type[EntryType], problems: list[Problem]) -> list[tuple[int, EntryType]]:
    """The valid `[[name]]` entries of a file that has nothing else, each with its number in the file."""
    for other in sorted(set(source.data) - {name}):
        value = source.data[other]
        written = None if isinstance(value, (dict, tuple)) else shown(other, value, unknown=True)
        problems.append(
            Problem(source.file, source.line((other,)), other, written, "does not belong in this file", f"write [[{name}]] entries only")
        )
    tables = source.data.get(name, ())
    if not isinstance(tables, tuple) or not all(isinstance(table, dict) for table in tables):
        problems.append(Problem(source.file, source.line((name,)), name, None, "not a list of tables", f"begin each entry with [[{name}]]"))
        return []
    entries = ((n, _validated(source, (name, n), table, model, problems)) for n, table in enumerate(tables))
    return [(n, entry) for n, entry in entries if entry is not None]


def settings_of(source: TomlFile, problems: list[Problem]) -> Settings:
    """book.toml; the defaults stand in where it has problems."""
    return _validated(source, (), source.data, Settings, problems) or Settings()


def channels_of(source: TomlFile, problems: list[Problem]) -> tuple[Channel, ...]:
    """channels.toml: names are unique, and at most one channel is the default. Where two take a host, the first has it."""
    entries = _tables(source, "channel", Channel, problems)
    if "channel" not in source.data:
        problems.append(
            Problem(source.file, 1, "channel", None, "no channel at all", "add a [[channel]] with name, base_url, route and bucket")
        )
    first: dict[str, int] = {}
    default: int | None = None
    for n, channel in entries:
        line = source.line(("channel", n, "name"))
        if channel.name in first:
            problems.append(
                Problem(
                    source.file,
                    line,
                    "name",
                    channel.name,
                    f"line {first[channel.name]} has this name too",
                    "give each channel its own name",
                )
            )
        first.setdefault(channel.name, line)
        if channel.default:
            line = source.line(("channel", n, "default"))
            if default is not None:
                problems.append(
                    Problem(
                        source.file,
                        line,
                        "default",
                        "true",
                        f"line {default} is the default already",
                        "keep `default = true` on one channel",
                    )
                )
            default = default or line
    return tuple(channel for _, channel in entries)


def channel_names(source: TomlFile) -> frozenset[str]:
    """Every channel name as written, also of channels that have a problem elsewhere."""
    tables = source.data.get("channel", ())
    return (
        frozenset(str(table["name"]) for table in tables if isinstance(table, dict) and "name" in table)
        if isinstance(tables, tuple)
        else frozenset()
    )


def models_of(source: TomlFile, channels: frozenset[str], problems: list[Problem]) -> tuple[Model, ...]:
    """models.toml: api ids are unique, and every way to a model is a channel of channels.toml, named once for an upstream id."""
    entries = _tables(source, "model", Model, problems)
    first: dict[str, int] = {}
    for n, model in entries:
        line = source.line(("model", n, "api"))
        if model.api in first:
            problems.append(
                Problem(source.file, line, "api", model.api, f"line {first[model.api]} has this id too", "give each model its own api id")
            )
        first.setdefault(model.api, line)
        for i, way in enumerate(model.channel):
            line = source.line(("model", n, "channel", i, "name"))
            if way.name not in channels:
                problems.append(
                    Problem(source.file, line, "channel.name", way.name, "no such channel in channels.toml", closest(way.name, channels))
                )
            if way in model.channel[:i]:
                problems.append(
                    Problem(
                        source.file, line, "channel.name", way.name, f"named twice with upstream '{way.upstream}'", "remove one of the two"
                    )
                )
    return tuple(model for _, model in entries)


def keys_of(source: TomlFile, problems: list[Problem]) -> tuple[Key, ...]:
    """keys.toml, each row's `valid_to` resolved: an id is one row at a time, and so is a fingerprint."""
    entries = _tables(source, "key", Key, problems)
    rows: dict[int, Key] = {}
    histories: dict[str, list[int]] = {}
    for n, key in entries:
        rows[n] = key
        histories.setdefault(key.id, []).append(n)
        if key.valid_to is not None and (key.valid_from or 0) >= key.valid_to:
            table = source.data["key"][n]
            written = shown("to", table.get("to", table.get("valid_to")))
            problems.append(
                Problem(
                    source.file,
                    source.line(("key", n, "to")),
                    "to",
                    written,
                    "not after `from`",
                    "write a later instant, or leave `to` out",
                )
            )
    for numbers in histories.values():
        numbers.sort(key=lambda n: _begin(rows[n]))
        for n, following in pairwise(numbers):
            if rows[n].valid_to is None and _begin(rows[following]) > _begin(rows[n]):
                rows[n] = rows[n].model_copy(update={"valid_to": rows[following].valid_from})
    for attribute in ("id", "fingerprint"):
        _one_at_a_time(source, attribute, rows, problems)
    return tuple(rows[n] for n, _ in entries)


def _begin(key: Key) -> int:
    return key.valid_from if key.valid_from is not None else -(2**62)


def _one_at_a_time(source: TomlFile, attribute: str, rows: dict[int, Key], problems: list[Problem]) -> None:
    last: dict[str, int] = {}
    for n in sorted(rows, key=lambda n: (_begin(rows[n]), n)):
        value = getattr(rows[n], attribute)
        before = last.get(value)
        if before is not None and (attribute == "id" or rows[before].id != rows[n].id):
            end = rows[before].valid_to
            if end is None or end > _begin(rows[n]):
                one, other = sorted((before, n))
                what = f"overlaps in time with the row on line {source.line(('key', one))}"
                cure = "give the earlier row a `to` at or before the later row's `from`"
                written = shown(attribute, value)
                problems.append(Problem(source.file, source.line(("key", other, attribute)), attribute, written, what, cure))
        last[value] = n
