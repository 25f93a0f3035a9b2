"""Raw records written by hand, as journals in spool/ or as sealed files in raw/, and a small book whose prices work in the head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from etl.build import BuildResult, build
from schemas import manifest
from schemas.frames import encode
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.manifest import Seal, SealedFile
from schemas.records import ARROW, KINDS, Attempt, Body, Event, Instant, JsonText, Record, Request, Response, UsageSeen
from schemas.spool import WRITER_FILE, segment_name

NOON = parse_instant("2026-10-10T12:00:00Z")
SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
KEY = "fp_" + "a" * 32
OTHER_KEY = "fp_" + "b" * 32

BOOK = {
    "book.toml": 'currency = "USD"\ntimezone = "UTC"\n',
    "channels.toml": """
[[channel]]
name = "official"
base_url = "https://api.openai.test/v1"
route = "official"
bucket = "official_credit"
vendor = "OpenAI"
default = true

[[channel]]
name = "routed"
base_url = "https://routed.test/v1"
route = "routed"
bucket = "routed_balance"
vendor = "Router"
""",
    "models.toml": """
[[model]]
public = "GPT-4o mini"
api = "gpt-4o-mini"
[[model.channel]]
name = "routed"
upstream = "openai/gpt-4o-mini"
[[model.channel]]
name = "official"
upstream = "gpt-4o-mini"
""",
    "keys.toml": f"""
[[key]]
id = "k-ada"
label = "Ada's laptop"
fingerprint = "{KEY}"
user = "ada"
project = "search"
wallet = "research"
from = 2026-01-01T00:00:00Z
""",
    # In US dollars a million: official 0.15 in, 0.075 cached, 0.60 out; routed 0.03 in, 0.12 out and no cached price.
    "rates.csv": """channel,model,meter,price,per,currency,effective_from,effective_to,book,service_tier,min_input_tokens,hours,weekdays,source,note
official,gpt-4o-mini,input,0.15,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-4o-mini,cached_input,0.075,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-4o-mini,output,0.60,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
routed,openai/gpt-4o-mini,input,0.03,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
routed,openai/gpt-4o-mini,output,0.12,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
*,openai/gpt-4o-mini,input,0.15,1000000,USD,2026-01-01T00:00:00Z,,list,,,,,test,
*,openai/gpt-4o-mini,output,0.60,1000000,USD,2026-01-01T00:00:00Z,,list,,,,,test,
official,dated,input,1,1000000,USD,2026-10-01T00:00:00Z,,charge,,,,,test,
official,dated,output,4,1000000,USD,2026-10-01T00:00:00Z,,charge,,,,,test,
official,dated,input,2,1000000,USD,2026-10-10T12:00:00Z,,charge,,,,,test,doubled at noon
official,dated,request,0.001,1,USD,2026-10-10T12:00:00Z,,charge,,,,,test,and a fee a call
official,tiered,input,1,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,tiered,input,2,1000000,USD,2026-01-01T00:00:00Z,,charge,,1001,,,test,
official,tiered,input,0.5,1000000,USD,2026-01-01T00:00:00Z,,charge,flex,,,,test,
official,tiered,input,0.8,1000000,USD,2026-01-01T00:00:00Z,,charge,flex,1001,,,test,
official,tiered,output,4,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,nightly,input,1,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,nightly,input,0.25,1000000,USD,2026-01-01T00:00:00Z,,charge,,,22:00-06:00,,test,
official,nightly,output,4,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gift,input,0,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,a price of zero is a price
official,gift,output,0,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
""",
    "failed_requests.csv": """policy,channel,outcome,charge,effective_from,effective_to,note
no-charge,*,error_before_output,none,2026-01-01T00:00:00Z,,
no-charge,*,rate_limited,none,2026-01-01T00:00:00Z,,
no-charge,*,rejected_by_proxy,none,2026-01-01T00:00:00Z,,
seen,*,error_mid_stream,observed,2026-01-01T00:00:00Z,,
seen,*,client_gone,observed,2026-01-01T00:00:00Z,,
slow,*,timeout,0.002,2026-01-01T00:00:00Z,,
refusal,*,refused_no_output,input,2026-01-01T00:00:00Z,,
refusal,*,refused_with_output,reported,2026-01-01T00:00:00Z,,
empty,*,empty_reply,reported,2026-01-01T00:00:00Z,,
routed-bills,routed,error_mid_stream,reported,2026-01-01T00:00:00Z,,
""",
}


TERMS = "channel,model,meter,term,value,effective_from,effective_to,source,note,pool\n"
FX = "currency,rate,effective_from,effective_to,source,note\n"


def write_book(home: Home, *, terms: str | None = None, fx: str | None = None, **changes: str) -> None:
    """The book above; a change names a file by its stem and gives its whole text, or what to append where it starts with +.

    `terms` and `fx` are what those files, which a book need not have, say below their header.
    """
    home.book.mkdir(parents=True, exist_ok=True)
    for name, header, said in (("terms.csv", TERMS, terms), ("fx.csv", FX, fx)):
        if said is not None:
            (home.book / name).write_text(header + said)
    for name, text in BOOK.items():
        change = changes.get(name.split(".")[0])
        (home.book / name).write_text(text + change[1:] if change and change.startswith("+") else change or text)


def terms(*lines: str) -> str:
    """Rows of terms.csv: `channel model meter term value` and then `name=value` for what is not empty."""
    text = []
    for line in lines:
        *what, value, more = (line + " ").split(" ", 5)
        said = dict(part.split("=") for part in more.split())
        dates = (said.get("from", "2026-01-01T00:00:00Z"), said.get("to", ""))
        text.append(",".join((*what, value, *dates, "test", "", said.get("pool", ""))) + "\n")
    return "".join(text)


def more_rates(*lines: str) -> str:
    """rates.csv with more rows: `channel model meter price` and then `name=value` for what is not empty, the later columns included."""
    later = ("region", "endpoint", "marginal")
    wide = any(f" {name}=" in line for line in lines for name in later)
    header, *old = BOOK["rates.csv"].splitlines()
    text = [f"{header},{','.join(later)}", *(f"{row},,," for row in old)] if wide else [header, *old]
    for line in lines:
        channel, model, meter, price, *more = line.split(" ")
        said = dict(part.split("=") for part in more)
        cells = [
            *(channel, model, meter, price, said.get("per", "1000000"), said.get("currency", "USD")),
            *(said.get("from", "2026-01-01T00:00:00Z"), said.get("to", ""), said.get("book", "charge")),
            *(said.get(name, "") for name in ("tier", "min", "hours", "days")),
            *("test", ""),
            *((said.get(name, "") for name in later) if wide else ()),
        ]
        text.append(",".join(f'"{cell}"' for cell in cells))
    return "\n".join(text) + "\n"


def json(value: Any) -> JsonText:
    return JsonText(orjson.dumps(value).decode())


def request(request_id: str, at: int = NOON, *, retry: int | None = 0, headers: dict[str, str] | None = None, **facts: Any) -> Request:
    """A chat call of Ada's with the official Python SDK, unless said otherwise."""
    sent = {"user-agent": "OpenAI/Python 2.54.0", **({} if retry is None else {"x-stainless-retry-count": str(retry)}), **(headers or {})}
    told: dict[str, Any] = {
        "door": "gateway",
        "client_address": "127.0.0.1",
        "client_connection": "c1",
        "method": "POST",
        "host": "127.0.0.1:8780",
        "path": "/v1/chat/completions",
        "credential": KEY,
        "credential_in": "authorization",
        "api_model": "gpt-4o-mini",
        "stream": False,
        "body_state": "read",
        "match_sha256": "m" * 64,
    }
    return Request(request_id=request_id, received_at=Instant(at), headers=json(sent), **told | facts)


def attempt(request_id: str, ordinal: int = 1, at: int = NOON, *, channel: str = "official", **facts: Any) -> Attempt:
    """A first try on the official channel, unless said otherwise."""
    model = "openai/gpt-4o-mini" if channel == "routed" else "gpt-4o-mini"
    told: dict[str, Any] = {
        "role": "primary",
        "reason": "first" if ordinal == 1 else "retry",
        "url": f"https://{channel}.test/v1/chat/completions",
        "sent_model": model,
    }
    return Attempt(request_id=request_id, ordinal=ordinal, channel=channel, opened_at=Instant(at), **told | facts)


def usage(prompt: Any, completion: Any, **more: Any) -> tuple[UsageSeen, ...]:
    """The vendor's usage object at its usual place, once."""
    return (UsageSeen("usage", orjson.dumps({"prompt_tokens": prompt, "completion_tokens": completion, **more}).decode(), 1),)


def response(request_id: str, ordinal: int = 1, at: int = NOON + SECOND, **facts: Any) -> Response:
    """A whole JSON reply with output and without usage, a second later, unless said otherwise."""
    told: dict[str, Any] = {
        "http_status": 200,
        "headers": json({"x-request-id": f"up-{request_id}-{ordinal}"}),
        "content_type": "application/json",
        "ending": "complete",
        "first_token_at": Instant(at),
        "relayed": True,
        "terminal": "body",
        "output_seen": True,
        "finish_reasons": ("stop",),
        "response_id": f"chatcmpl-{request_id}-{ordinal}",
        "served_model": "gpt-4o-mini-2024-07-18",
        "body_state": "read",
    }
    return Response(request_id=request_id, ordinal=ordinal, closed_at=Instant(at), **told | facts)


def failure(request_id: str, ordinal: int = 1, at: int = NOON + SECOND, status: int = 500, **facts: Any) -> Response:
    """An error reply before any output."""
    nothing = {"http_status": status, "output_seen": False, "first_token_at": None, "finish_reasons": (), "served_model": None}
    return response(request_id, ordinal, at, **nothing | {"response_id": None, "error": "upstream failed"} | facts)


def broken(request_id: str, ordinal: int = 1, at: int = NOON + SECOND, ending: str = "upstream_truncated", **facts: Any) -> Response:
    """A stream that broke after some output."""
    return response(
        request_id, ordinal, at, **{"ending": ending, "terminal": None, "streamed": True, "content_type": "text/event-stream"} | facts
    )


def call(
    request_id: str, at: int = NOON, prompt: Any = 1000, completion: Any = 500, model: str = "gpt-4o-mini", **facts: Any
) -> list[Record]:
    """One whole call that the official channel answered, with usage."""
    return [
        request(request_id, at, match_sha256=f"{request_id:m<64}"[:64], api_model=model, **facts),
        attempt(request_id, at=at, sent_model=model),
        response(request_id, at=at + SECOND, usage=usage(prompt, completion)),
    ]


def body(request_id: str, ordinal: int, content: bytes, at: int = NOON, **facts: Any) -> Body:
    told: dict[str, Any] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "content": content}
    return Body(request_id=request_id, ordinal=ordinal, at=Instant(at), **told | facts)


def event(event_id: str, kind: str, at: int = NOON, **facts: Any) -> Event:
    """An event; `actor`, `reason`, `reference` and `request_id` are its columns, everything else its facts."""
    columns = {name: facts.pop(name) for name in ("actor", "reason", "reference", "request_id") if name in facts}
    return Event(event_id=event_id, at=Instant(at), event=kind, facts=json(facts), **columns)


def topup(event_id: str, amount: str, at: int = NOON - DAY, bucket: str = "official_credit", **facts: Any) -> Event:
    told = {"actor": "finance", "reason": "monthly credit", "reference": "inv-1", "wallet": "research", "bucket": bucket, "currency": "USD"}
    return event(event_id, "wallet_topup", at, **told | {"amount": amount} | facts)


# ---- writing ----


def spool(home: Home, records: Iterable[Record], writer: str = "w1", first_seq: int = 1) -> Path:
    """One journal with one segment; the path of the segment."""
    folder = home.spool / writer
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WRITER_FILE).write_text(writer)
    path = folder / segment_name(first_seq)
    path.write_bytes(b"".join(encode(record, seq) for seq, record in enumerate(records, first_seq)))
    return path


@dataclass
class Archive:
    """Sealed files, written one seal at a time."""

    home: Home
    seals: list[Seal] = field(default_factory=list)
    next_seq: dict[str, int] = field(default_factory=dict)

    def seal(self, records: Sequence[Record], writer: str = "w1", **facts: Any) -> list[Path]:
        """One seal of these records; the paths of its files."""
        first = self.next_seq.get(writer, 1)
        return self.seal_frames(list(enumerate(records, first)), writer, **facts)

    def seal_frames(
        self, frames: Sequence[tuple[int, Record]], writer: str = "w1", missing: tuple[tuple[int, int], ...] = ()
    ) -> list[Path]:
        """One seal of records with their sequence numbers."""
        self.next_seq[writer] = max(seq for seq, _ in frames) + 1
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for seq, record in frames:
            row = {name: getattr(record, name) for name in record.__struct_fields__} | {"writer": writer, "seq": seq}
            if isinstance(record, Response):
                row["usage"] = [{"path": u.path, "object": u.object, "count": u.count} for u in record.usage]
            at = getattr(record, KINDS[record.kind].instant)
            date = datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%d")
            groups.setdefault((record.kind, date), []).append(row)
        files = []
        for (kind, date), rows in sorted(groups.items()):
            path = self.home.raw / kind / f"date={date}" / f"{writer}-{len(self.seals):04d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=ARROW[kind]), path, compression="zstd")
            data = path.read_bytes()
            files.append(SealedFile(str(path.relative_to(self.home.raw)), kind, len(rows), len(data), hashlib.sha256(data).hexdigest()))
        first, last = min(seq for seq, _ in frames), max(seq for seq, _ in frames)
        self.line(writer, first, last, tuple(files), missing)
        return [self.home.raw / file.path for file in files]

    def line(self, writer: str, first: int, last: int, files: tuple[SealedFile, ...], missing: tuple[tuple[int, int], ...] = ()) -> None:
        """One manifest line."""
        previous = self.seals[-1].hash if self.seals else manifest.GENESIS
        seal = Seal(len(self.seals) + 1, previous, writer, first, last, missing, Instant(NOON + DAY), files).chained()
        self.seals.append(seal)
        self.home.raw.mkdir(parents=True, exist_ok=True)
        with self.home.manifest.open("ab") as file:
            file.write(seal.line())


# ---- reading ----


def built(home: Home, records: Iterable[Record] = (), **changes: str) -> BuildResult:
    """Spool the records, write the book, build."""
    if not home.book.exists() or changes:
        write_book(home, **changes)
    if records:
        spool(home, records)
    return build(home)


def rows(home: Home, query: str) -> list[dict[str, Any]]:
    """The answer of the published ledger, as dictionaries."""
    with duckdb.connect(str(home.ledger_file), read_only=True) as connection:
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def one(home: Home, query: str) -> dict[str, Any]:
    """The one row that the query gives."""
    (row,) = rows(home, query)
    return row


def final_charges(home: Home) -> dict[str, Decimal | None]:
    """What each request costs, null where that is not known."""
    return {row["request_id"]: row["final_charge"] for row in rows(home, "SELECT request_id, final_charge FROM ledger")}
