"""From the bytes of a bill to its lines: the container is told from the content, everything else by a mapping.

Nothing is left out and nothing is guessed: a record that cannot be read is a problem with its line and a cure, and a bill
with a problem is not taken at all.
"""

from __future__ import annotations

import csv
import decimal
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from etl.bills.lines import CALL, FEE, PAYMENT, USAGE, BillError, BillLine
from etl.bills.mapping import Mapping, known
from schemas.bookfile import Problem, decode, shown
from schemas.counts import counted
from schemas.instants import InstantError, from_datetime
from schemas.money import PLACES
from schemas.records import Instant

QUANTUM = Decimal(1).scaleb(-PLACES)
MOST_UNPACKED = 1 << 30
# A row with one of these in a cell is the sum of others, not a line: counted as one, it would double the bill.
TOTALS = frozenset({"total", "totals", "grandtotal", "subtotal"})
COARSEST = Decimal("0.01")  # a bill that writes whole units is taken to be exact to the hundredth
# An amount with more than 12 places is a binary fraction's noise: it is taken to the nearest 12th place.
_ROUND = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN)

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
_SWAPPED = str.maketrans(",.", ".,")
_DIGITS = "write digits with at most one point; where the bill has decimal commas, decimal_comma = true in book/bills/<vendor>.toml"
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(\.\d+)?\s*(Z|UTC|[+-]\d{2}:?\d{2})?)?")


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a bill, with the objects around it, the nearest last; a CSV row has its cells by name."""

    number: int
    members: Map[str, Any]
    around: tuple[Map[str, Any], ...] = ()
    is_row: bool = False

    def value(self, path: str) -> Any:
        """What a path names, None where there is nothing."""
        if path.startswith("^"):
            return Record(self.number, self.around[-1], self.around[:-1]).value(path[1:]) if self.around else None
        if self.is_row and (whole := self.members.get(plain_name(path))) is not None:
            return whole
        found: Any = self.members
        for place, part in enumerate(path.split(".")):
            if isinstance(found, str) and found.lstrip().startswith("{"):
                found = _object(found)
            if not isinstance(found, dict):
                return None
            found = found.get(plain_name(part) if self.is_row and place == 0 else part)
        return found

    def first(self, paths: Sequence[str]) -> tuple[str, Any]:
        """The first of these paths that says anything, and what; the last path where none does."""
        for path in paths:
            value = self.value(path)
            if value is not None and value != "":
                return path, value
        return (paths[-1] if paths else ""), None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a bill."""

    mapping: Mapping
    lines: tuple[BillLine, ...]
    quantum: Decimal
    account: str


def plain_name(name: str) -> str:
    """A column's name as it is compared: vendors change its case, spaces and underscores."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text, parse_float=Decimal)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# ---- bytes to records ----


def unpacked(file: str, content: bytes) -> bytes:
    """The content, or what is packed in it where it is gzip; raises BillError."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            plain = packed.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BillError([Problem(file, 1, "file", None, f"not whole as gzip ({error})", "export the bill again")]) from None
    if len(plain) > MOST_UNPACKED:
        raise BillError([Problem(file, 1, "file", None, f"unpacks to more than {MOST_UNPACKED} bytes", "cut it by account or day")])
    return plain


def read_records(file: str, content: bytes, mapping: Mapping) -> list[Record]:
    """The records of a file; raises BillError."""
    return _rows(file, content) if not is_json(content) else _members(file, content, mapping)


def is_json(content: bytes) -> bool:
    """Whether the content is JSON (or JSON lines) rather than CSV."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _rows(file: str, content: bytes) -> list[Record]:
    text = decode(file, content)
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t|", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    records: list[Record] = []
    problems: list[Problem] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            problems.append(Problem(file, line, "row", None, f"not CSV ({error})", "close every quote"))
            break
        if not any(cells):
            continue
        if header is None:
            header = [plain_name(cell) for cell in cells]
            twice = sorted({name for name in header if name and header.count(name) > 1})
            problems.extend(Problem(file, line, "header", name, "the column stands there twice", "rename one of the two") for name in twice)
        elif len(cells) != len(header):
            what = f"{counted(len(cells), 'cell')} under {counted(len(header), 'column')}"
            problems.append(Problem(file, line, "row", shown("row", ",".join(cells)), what, "put quotes round a cell with a separator"))
        else:
            records.append(Record(line, dict(zip(header, cells, strict=True)), (), True))
    if header is None:
        problems.append(Problem(file, 1, "file", None, "is empty", "export the bill again"))
    if problems:
        raise BillError(problems)
    return records


def _members(file: str, content: bytes, mapping: Mapping) -> list[Record]:
    document = _document(file, content)
    pages = document if isinstance(document, list) else [document]
    problems = [
        Problem(file, 1, str(mapping.incomplete), "true", "the file is one page of several", "fetch every page and put them into one list")
        for page in pages
        if mapping.incomplete
        and isinstance(page, dict)
        and page.get(mapping.incomplete) is True
        and (page is document or page is pages[-1])
    ]
    found: list[Record] = []
    for path in _paths(mapping):
        found = [Record(n, members, around) for n, (members, around) in enumerate(_walk(document, path), 1)]
        if any(fits(record, mapping) for record in found[:1]):
            break
    if mapping.count and path != "[]":
        counts = [Record(0, page).value(mapping.count) for page in pages if isinstance(page, dict)]
        stated = max((count for count in counts if isinstance(count, int)), default=0)
        if stated > len(found):
            what = f"says that there are {stated}, and {counted(len(found), 'record is', 'records are')} here"
            problems.append(Problem(file, 1, mapping.count, str(stated), what, "fetch every page and put them into one list"))
    if problems:
        raise BillError(problems)
    return found


def _paths(mapping: Mapping) -> list[str]:
    """Where the records are, in one answer or in a list of such answers: the pages, one after the other."""
    return [*mapping.records, *(f"[].{path}" for path in mapping.records if path not in ("[]", "."))]


def _document(file: str, content: bytes) -> Any:
    text = decode(file, content)
    try:
        return json.loads(text, parse_float=Decimal)
    except ValueError as error:
        whole = error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    values = []
    for number, line in lines:
        try:
            values.append(json.loads(line, parse_float=Decimal))
        except ValueError as error:
            place = number if values else getattr(whole, "lineno", 1)
            raise BillError(
                [Problem(file, place, "JSON", None, f"not JSON ({error if values else whole})", "export the bill again")]
            ) from None
    return values


def _walk(value: Any, path: str, around: tuple[Map[str, Any], ...] = ()) -> Iterator[tuple[Map[str, Any], tuple[Map[str, Any], ...]]]:
    """The objects that a path such as `data[].results[]` names, each with the objects around it."""
    if path in ("", "."):
        if isinstance(value, dict):
            yield value, around
        return
    part, _, rest = path.partition(".")
    name, is_list = part.removesuffix("[]"), part.endswith("[]")
    if name:
        if not isinstance(value, dict):
            return
        around = (*around, value)
        value = value.get(name)
    if not is_list:
        yield from _walk(value, rest, around)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, rest, around)


# ---- which mapping ----


def fits(record: Record, mapping: Mapping) -> bool:
    """Whether a record looks like one of the mapping's."""
    if not mapping.detect:
        return bool(mapping.columns)
    values = ((record.value(path), wanted) for path, wanted in mapping.detect.items())
    return all(value is not None and wanted in ("*", value) for value, wanted in values)


def choose(file: str, content: bytes, own: Mapping | None) -> tuple[Mapping, list[Record]]:
    """The vendor's own mapping, else the known one that says most of the first record; raises BillError where none fits."""
    if own is not None and own.columns:
        return own, read_records(file, content, own)
    fitting: list[tuple[int, str, Mapping, list[Record]]] = []
    for name, mapping in known().items():
        try:
            records = read_records(file, content, mapping)
        except BillError as error:
            if any(problem.field in (mapping.incomplete, mapping.count) for problem in error.problems) and _seems(file, content, mapping):
                raise
            if not is_json(content) or any(problem.field in ("row", "header", "file") for problem in error.problems):
                raise
            continue
        if records and fits(records[0], mapping):
            fitting.append((-len(mapping.detect), name, mapping, records))
    if not fitting:
        raise BillError([_unknown(file, content)])
    _, _, mapping, records = min(fitting, key=lambda found: found[:2])
    return mapping, records


def _seems(file: str, content: bytes, mapping: Mapping) -> bool:
    document = _document(file, content)
    return any(fits(Record(0, members, around), mapping) for path in _paths(mapping) for members, around in list(_walk(document, path))[:1])


def _unknown(file: str, content: bytes) -> Problem:
    if is_json(content):
        document = _document(file, content)
        members = document[0] if isinstance(document, list) and document else document
        seen = ", ".join(sorted(members)) if isinstance(members, dict) else "no object"
    else:
        seen = ", ".join(next(csv.reader(io.StringIO(decode(file, content)))))
    cure = f"describe it in book/bills/<vendor>.toml; known formats: {', '.join(known())}"
    return Problem(file, 1, "format", seen[:200], "no known format of a bill", cure)


# ---- records to lines ----


def read_bill(file: str, content: bytes, own: Mapping | None, currency: str, month: tuple[int, int]) -> Reading:
    """The lines of a bill of one month (its first instant and the first after it); raises BillError with all that is wrong."""
    mapping, records = choose(file, unpacked(file, content), own)
    if own is not None and own is not mapping:  # what the vendor's own file adds to a known format
        mapping = _with(mapping, own)
    reader = _LineReader(file, mapping, currency, month)
    lines = tuple(line for record in records if (line := reader.line(record)) is not None)
    if reader.problems:
        raise BillError(reader.problems)
    accounts = sorted({line.account for line in lines if line.account})
    return Reading(mapping, lines, min(max(reader.quantum or QUANTUM, QUANTUM), COARSEST), mapping.account or "+".join(accounts))


def _with(mapping: Mapping, own: Mapping) -> Mapping:
    plain = Mapping(own.name)
    changed = {name: getattr(own, name) for name in ("zone", "currency", "unit", "exchange", "vendor", "channels", "account")}
    return replace(mapping, **{name: value for name, value in changed.items() if value != getattr(plain, name)})


class _LineReader:
    """Reads records one by one and gathers what is wrong with them."""

    def __init__(self, file: str, mapping: Mapping, currency: str, month: tuple[int, int]) -> None:
        self.file = file
        self.mapping = mapping
        self.currency = currency
        self.month = month
        self.zone = ZoneInfo(mapping.zone)
        self.problems: list[Problem] = []
        self.quantum: Decimal | None = None

    def line(self, record: Record) -> BillLine | None:
        """The line, None where something is wrong with it."""
        before = len(self.problems)
        for path, wanted in self.mapping.detect.items():
            if wanted != "*" and record.value(path) != wanted:
                self.refuse(record, path, record.value(path), f"not {wanted}", "take the other records out into a file of their own")
        for name, value in record.members.items() if record.is_row else ():
            if plain_name(value) in TOTALS:
                self.refuse(record, name, value, "the sum of other lines, not a line of its own", "take the totals out of the file")
        kind, sign = self.kind(record)
        at, until = self.times(record)
        written_currency = self.text(record, "currency")
        amount_text, amount, priced, fee = self.money(record, sign, written_currency)
        tokens = {name: self.whole(record, name) for name in _COUNTS}
        if self.mapping.cached_beside and tokens["input_tokens"] is not None:
            tokens["input_tokens"] += (tokens["cached_tokens"] or 0) + (tokens["cache_write_tokens"] or 0)
        if amount is None and kind != PAYMENT and (kind == FEE or (tokens["input_tokens"] is None and tokens["output_tokens"] is None)):
            names = self.mapping.columns.get("amount") or self.mapping.columns.get("input_tokens") or ("amount",)
            self.refuse(record, names[0], None, "no amount and no tokens", "complete the line, or take it out if it is a total")
        prices = self.prices(record)
        if len(self.problems) > before:
            return None
        return BillLine(
            number=record.number,
            kind=kind,
            grain=self.mapping.grain,
            at=at,
            until=until,
            ids=tuple(dict.fromkeys(str(v) for path in self.mapping.columns.get("id", ()) if (v := record.value(path)) not in (None, ""))),
            model=self.model(record),
            item=self.text(record, "item"),
            tier=(self.text(record, "tier") or "").lower() or None,
            multiplier=self.multiplier(record),
            amount=amount,
            priced_amount=priced,
            fee=fee,
            written_amount=amount_text,
            written_currency=written_currency,
            account=self.text(record, "account"),
            requests=tokens["requests"],
            input_tokens=tokens["input_tokens"],
            cached_tokens=tokens["cached_tokens"],
            cache_write_tokens=tokens["cache_write_tokens"],
            output_tokens=tokens["output_tokens"],
            reasoning_tokens=tokens["reasoning_tokens"],
            input_price=prices["input_price"],
            cached_price=prices["cached_price"],
            output_price=prices["output_price"],
        )

    def refuse(self, record: Record, name: str, value: Any, what: str, cure: str) -> None:
        text = None if value is None else shown(name, value)
        self.problems.append(Problem(self.file, record.number, name, text, what, cure))

    def text(self, record: Record, column: str) -> str | None:
        _, value = record.first(self.mapping.columns.get(column, ()))
        return None if value is None else str(value)

    def model(self, record: Record) -> str | None:
        text = self.text(record, "model")
        if text is None or self.mapping.model_pattern is None:
            return text
        found = re.search(self.mapping.model_pattern, text)
        return found[1] if found else None

    def kind(self, record: Record) -> tuple[str, Decimal]:
        sign = Decimal(-1 if self.mapping.negative else 1)
        path, value = record.first(self.mapping.columns.get("kind", ()))
        if value is None or not self.mapping.kinds:
            return USAGE, sign
        kind = self.mapping.kinds.get(str(value).casefold())
        if kind is None:
            self.refuse(record, path, value, "not a kind of line that is known", "say what it is under [kinds] in book/bills/<vendor>.toml")
            return USAGE, sign
        return (FEE, -sign) if kind == "-fee" else (kind, sign)

    def money(self, record: Record, sign: Decimal, written: str | None) -> tuple[str | None, Decimal | None, Decimal | None, Decimal]:
        """The amount as written and in the ledger's currency; the vendor's own figure in that currency, where it has changed
        it into another; and the fee in the amount.
        """
        text, raw = self.decimal(record, "amount")
        _, raw_fee = self.decimal(record, "fee")
        _, raw_priced = self.decimal(record, "priced_amount")
        if (self.text(record, "priced_currency") or "").upper() != self.currency:
            raw_priced = None
        currency = (written or self.mapping.currency or self.currency).upper()
        is_home = currency == self.currency
        if not is_home and currency not in self.mapping.exchange:
            if raw_priced is not None and not raw_fee:  # the vendor's own figure in our currency is the only one there is
                return text, self.amount(raw_priced, sign), None, Decimal(0)
            cure = f'write [exchange] {currency} = "..." in book/bills/<vendor>.toml: what one {currency} is worth in {self.currency}'
            self.refuse(record, "currency", currency, f"the ledger is in {self.currency}", cure)
            return text, None, None, Decimal(0)
        factor = sign * self.mapping.unit * (1 if is_home else self.mapping.exchange[currency])
        amount = None if raw is None else self.amount(raw, factor)
        priced = None if is_home or raw_priced is None else self.amount(raw_priced, sign)
        return text, amount, priced, Decimal(0) if raw_fee is None else self.amount(raw_fee, factor)

    def decimal(self, record: Record, column: str) -> tuple[str | None, Decimal | None]:
        path, value = record.first(self.mapping.columns.get(column, ()))
        if value is None:
            return None, None
        text = str(value).strip()
        plain = text.removeprefix("$").strip()
        if self.mapping.decimal_comma and isinstance(value, str):  # a number of JSON has its point whatever the texts have
            plain = plain.translate(_SWAPPED)
        if _THOUSANDS.fullmatch(plain):
            plain = plain.replace(",", "")
        if isinstance(value, bool) or not _NUMBER.fullmatch(plain):
            self.refuse(record, path, value, "not a number", _DIGITS)
            return text, None
        return text, Decimal(plain)

    def amount(self, raw: Decimal, factor: Decimal) -> Decimal:
        step = Decimal((0, (1,), min(int(raw.as_tuple().exponent), 0))) * abs(factor)
        self.quantum = step if self.quantum is None else min(self.quantum, step)
        return _ROUND.multiply(raw, factor).quantize(QUANTUM, context=_ROUND)

    def whole(self, record: Record, column: str) -> int | None:
        path = self.mapping.columns.get(column, ("",))[0]
        text, value = self.decimal(record, column)
        if value is None:
            return None
        if value != value.to_integral_value() or value < 0:
            self.refuse(record, path, text, "not a whole number", "write the count in digits")
            return None
        return int(value)

    def multiplier(self, record: Record) -> Decimal | None:
        """The first that is above zero: where a gateway has none it writes -1."""
        for path in self.mapping.columns.get("multiplier", ()):
            value = record.value(path)
            if value is not None and _NUMBER.fullmatch(str(value)) and Decimal(str(value)) > 0:
                return Decimal(str(value))
        return None

    def prices(self, record: Record) -> dict[str, Decimal | None]:
        unit = self.mapping.price_unit
        found = {name: self.decimal(record, name)[1] for name in ("input_price", "cached_price", "output_price")}
        ratios = {name: self.decimal(record, f"{name}_ratio")[1] for name in ("cached", "output")}
        plain = found["input_price"]
        if plain is not None and plain <= 0:
            plain = None
        for name, ratio in ratios.items():
            if plain is not None and ratio is not None and found[f"{name}_price"] is None:
                found[f"{name}_price"] = plain * ratio
        found["input_price"] = plain
        return {name: None if value is None else value * unit for name, value in found.items()}

    def times(self, record: Record) -> tuple[Instant | None, Instant | None]:
        grain = self.mapping.grain
        at = self.instant(record, "at")
        if grain == CALL:
            if at is None and not self.problems and not self.mapping.columns.get("id"):
                self.refuse(
                    record, self.mapping.columns["at"][0], None, "does not say when", "complete the line, or take it out if it is a total"
                )
            return at, None
        if grain == "month":
            return Instant(self.month[0]), Instant(self.month[1])
        if at is None:
            self.refuse(
                record, self.mapping.columns["at"][0], None, "does not say when", "complete the line, or take it out if it is a total"
            )
            return None, None
        if grain == "bucket":
            until = self.instant(record, "until")
            if until is None or until <= at:
                name = (self.mapping.columns.get("until") or ("until",))[0]
                self.refuse(record, name, None, "the end of the bucket is missing or not after its beginning", "complete the line")
                return None, None
            return at, until
        local = datetime.fromtimestamp(at // 1_000_000, self.zone)
        step = timedelta(hours=1) if grain == "hour" else timedelta(days=1)
        # a day is one day of the calendar, 23 to 25 hours long; an hour is an hour of the clock
        until_local = local + step if grain == "day" else (local.astimezone(ZoneInfo("UTC")) + step)
        return at, from_datetime(until_local)

    def instant(self, record: Record, column: str) -> Instant | None:
        path, value = record.first(self.mapping.columns.get(column, ()))
        if value is None:
            return None
        moment = self.moment(str(value).strip())
        if moment is None:
            self.refuse(
                record,
                path,
                value,
                "not an instant that is understood",
                'write ISO 8601, or name its form in time_formats, for example ["%d.%m.%Y"]',
            )
        return moment

    def moment(self, text: str) -> Instant | None:
        if re.fullmatch(r"\d{9,11}(\.\d+)?|\d{12,14}", text):
            number = Decimal(text)
            return Instant(int(number * (1_000 if number >= 10**11 else 1_000_000)))
        try:
            if found := _TIME.fullmatch(text):
                day, time, fraction, offset = found.groups()
                plain = datetime.fromisoformat(
                    f"{day}T{time or '00:00'}{(fraction or '')[:7].ljust(7, '0') if fraction and time and time.count(':') == 2 else ''}"
                )
                if offset in ("Z", "UTC"):
                    return from_datetime(plain.replace(tzinfo=ZoneInfo("UTC")))
                if offset:
                    return from_datetime(
                        datetime.fromisoformat(plain.isoformat() + (offset if ":" in offset else f"{offset[:3]}:{offset[3:]}"))
                    )
                return from_datetime(plain.replace(tzinfo=self.zone))
            for form in self.mapping.time_formats:
                try:
                    found_at = datetime.strptime(text, form)  # noqa: DTZ007  the zone is the mapping's, or in the text
                except ValueError:
                    continue
                return from_datetime(found_at if found_at.tzinfo else found_at.replace(tzinfo=self.zone))
        except (ValueError, InstantError):
            return None
        return None


_COUNTS = ("requests", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
