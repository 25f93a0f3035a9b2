"""Raw months of any size, made by DuckDB: a realistic mix of models, routes, failures, retries and fallbacks, and what it must come to.

The generator works its own charges out in whole picodollars (10^-12 of a dollar) beside the records, so that every
benchmark can hold the ledger to them; nothing here reads the rate engine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from schemas import manifest
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.manifest import Seal, SealedFile
from schemas.records import ARROW, Instant

DAYS = 28
FIRST_DAY = parse_instant("2026-09-01T00:00:00Z")
DAY = 86_400_000_000
SEAL_REQUESTS = 250_000  # a day of more is sealed in pieces, as the proxy does every few seconds
ROW_GROUP = 50_000  # rows that are read by one thread; what the proxy seals at once is less
KEYS = 20
WRITER = "bench"

RATES = """channel,model,meter,price,per,currency,effective_from,effective_to,book,service_tier,min_input_tokens,hours,weekdays,source,note
official,gpt-4o-mini,input,0.15,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
official,gpt-4o-mini,cached_input,0.075,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
official,gpt-4o-mini,output,0.60,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
official,large,input,2.5,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
official,large,input,5,1000000,USD,2024-01-01T00:00:00Z,,charge,,4001,,,bench,dearer above 4000 tokens of prompt
official,large,output,10,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
routed,gpt-4o-mini,input,0.03,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
routed,gpt-4o-mini,output,0.12,1000000,USD,2024-01-01T00:00:00Z,,charge,,,,,bench,
*,gpt-4o-mini,input,0.15,1000000,USD,2024-01-01T00:00:00Z,,list,,,,,bench,
*,gpt-4o-mini,output,0.60,1000000,USD,2024-01-01T00:00:00Z,,list,,,,,bench,
*,large,input,2.5,1000000,USD,2024-01-01T00:00:00Z,,list,,,,,bench,
*,large,output,10,1000000,USD,2024-01-01T00:00:00Z,,list,,,,,bench,
"""

BOOK = {
    "book.toml": 'currency = "USD"\ntimezone = "UTC"\n',
    "channels.toml": """
[[channel]]
name = "official"
base_url = "https://official.test/v1"
route = "official"
bucket = "official_credit"
vendor = "Official"
default = true

[[channel]]
name = "routed"
base_url = "https://routed.test/v1"
route = "routed"
bucket = "routed_balance"
vendor = "Router"
""",
    "models.toml": "".join(
        f'[[model]]\npublic = "{api}"\napi = "{api}"\n'
        + "".join(f'[[model.channel]]\nname = "{channel}"\nupstream = "{api}"\n' for channel in channels)
        for api, channels in (("gpt-4o-mini", ("routed", "official")), ("large", ("official",)))
    ),
    "keys.toml": "".join(
        f'[[key]]\nid = "k{n}"\nlabel = "key {n}"\nfingerprint = "fp_{n:032x}"\nuser = "user-{n}"\nproject = "project-{n % 5}"\n'
        'wallet = "research"\nfrom = 2024-01-01T00:00:00Z\n'
        for n in range(KEYS)
    ),
    "rates.csv": RATES,
    "failed_requests.csv": "policy,channel,outcome,charge,effective_from,effective_to,note\n"
    + "".join(
        f"no-charge,*,{outcome},none,2024-01-01T00:00:00Z,,\n"
        for outcome in (
            *("error_before_output", "error_mid_stream", "client_gone", "timeout", "rate_limited"),
            *("refused_no_output", "refused_with_output", "empty_reply", "rejected_by_proxy"),
        )
    ),
}

# One row a request. Of a thousand: 960 answered at once, 15 after a 429 on the same channel, 15 by the backup channel, 10 never.
CALLS = f"""
    WITH drawn AS (
        SELECT n, hash(n, 1) % 1000 AS fate, hash(n, 2) % 100 < 15 AS large, hash(n, 3) % 100 < 60 AS cheap,
            (10 + hash(n, 4) % 6000)::BIGINT AS prompt, (1 + hash(n, 5) % 1500)::BIGINT AS completion,
            hash(n, 6) % 3 = 0 AS caches, hash(n, 7) % 2 = 0 AS streams, (hash(n, 8) % {KEYS})::BIGINT AS key
        FROM range($first, $last) AS t(n)
    ), told AS (
        SELECT n, prompt, completion, streams, key,
            CASE WHEN large AND fate NOT BETWEEN 975 AND 989 THEN 'large' ELSE 'gpt-4o-mini' END AS model,
            CASE WHEN caches THEN prompt // 4 ELSE 0 END AS cached,
            CASE WHEN fate BETWEEN 975 AND 989 THEN 'routed' WHEN large OR NOT cheap THEN 'official' ELSE 'routed' END AS channel,
            CASE WHEN fate < 960 THEN 'ok' WHEN fate < 975 THEN 'retry' WHEN fate < 990 THEN 'fallback' ELSE 'failed' END AS fate,
            $begin + (n - $first) * ($span // ($last - $first)) AS began
        FROM drawn
    ), placed AS (
        SELECT *, CASE WHEN fate = 'fallback' THEN 'official' ELSE channel END AS payer,
            CASE WHEN fate IN ('retry', 'fallback') THEN 2 ELSE 1 END AS tries
        FROM told
    )
    SELECT *, 'r-' || lpad(n::VARCHAR, 10, '0') AS request_id,
        $seq + coalesce(sum(1 + 2 * tries) OVER (ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::BIGINT AS seq,
        CASE WHEN fate = 'failed' THEN 0
            WHEN payer = 'routed' THEN prompt * 30000 + completion * 120000
            WHEN model = 'large' THEN prompt * CASE WHEN prompt > 4000 THEN 5000000 ELSE 2500000 END + completion * 10000000
            ELSE (prompt - cached) * 150000 + cached * 75000 + completion * 600000 END AS picodollars
    FROM placed
"""

# What differs from null; every other column of a kind's schema is null.
ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "request": (
        "calls",
        {
            "request_id": "request_id",
            "door": "'gateway'",
            "received_at": "make_timestamp(began)",
            "client_address": "'127.0.0.1'",
            "client_connection": "'c' || n % 64",
            "method": "'POST'",
            "host": "'127.0.0.1:8780'",
            "path": "'/v1/chat/completions'",
            "headers": """'{"user-agent":"OpenAI/Python 2.54.0","x-stainless-retry-count":"0"}'""",
            "credential": "'fp_' || lpad(printf('%x', key), 32, '0')",
            "credential_in": "'authorization'",
            "api_model": "model",
            "stream": "streams",
            "body_state": "'read'",
            "body_bytes": "prompt * 4",
            "body_sha256": "sha256(request_id)",
            "match_sha256": "sha256(request_id)",
            "seq": "seq",
        },
    ),
    "attempt": (
        "calls, unnest(range(1, tries + 1)) AS t(ordinal)",
        {
            "request_id": "request_id",
            "ordinal": "ordinal",
            "channel": "CASE WHEN ordinal = tries THEN payer ELSE channel END",
            "role": "CASE WHEN ordinal = 2 AND fate = 'fallback' THEN 'backup' ELSE 'primary' END",
            "reason": "CASE WHEN ordinal = 1 THEN 'first' ELSE fate END",
            "url": "'https://' || CASE WHEN ordinal = tries THEN payer ELSE channel END || '.test/v1/chat/completions'",
            "sent_model": "model",
            "modified": "[]::VARCHAR[]",
            "opened_at": "make_timestamp(began + (ordinal - 1) * 200000)",
            "seq": "seq + 2 * ordinal - 1",
        },
    ),
    "response": (
        "(SELECT *, ordinal = tries AND fate <> 'failed' AS good FROM calls, unnest(range(1, tries + 1)) AS t(ordinal))",
        {
            "request_id": "request_id",
            "ordinal": "ordinal",
            "http_status": "CASE WHEN good THEN 200 WHEN fate = 'retry' THEN 429 ELSE 503 END",
            "headers": "'{\"x-request-id\":\"up-' || request_id || '-' || ordinal || '\"}'",
            "content_type": "CASE WHEN good AND streams THEN 'text/event-stream' ELSE 'application/json' END",
            "ending": "'complete'",
            "error": "CASE WHEN NOT good THEN 'upstream is busy' END",
            "error_event": "false",
            "headers_at": "make_timestamp(began + ordinal * 200000 - 50000)",
            "first_byte_at": "make_timestamp(began + ordinal * 200000 - 40000)",
            "first_token_at": "CASE WHEN good THEN make_timestamp(began + ordinal * 200000 - 30000) END",
            "closed_at": "make_timestamp(began + ordinal * 200000 - 10000)",
            "relayed": "ordinal = tries",
            "streamed": "good AND streams",
            "terminal": "CASE WHEN good AND streams THEN '[DONE]' ELSE 'body' END",
            "events": "CASE WHEN good AND streams THEN completion ELSE 0 END",
            "output_seen": "good",
            "finish_reasons": "CASE WHEN good THEN ['stop'] ELSE []::VARCHAR[] END",
            "response_id": "CASE WHEN good THEN 'chatcmpl-' || request_id END",
            "served_model": "CASE WHEN good THEN model END",
            "usage": """CASE WHEN good THEN [{'path': 'usage', 'object': '{"prompt_tokens":' || prompt || ',"completion_tokens":' ||
                completion || ',"total_tokens":' || (prompt + completion) || ',"prompt_tokens_details":{"cached_tokens":' || cached ||
                '},"completion_tokens_details":{"reasoning_tokens":' || completion // 3 || '}}', 'count': 1::BIGINT}] ELSE [] END""",
            "notes": "[]::VARCHAR[]",
            "body_state": "'read'",
            "body_bytes": "completion * 5",
            "body_sha256": "sha256(request_id || ordinal)",
            "seq": "seq + 2 * ordinal",
        },
    ),
}


@dataclass
class Month:
    """A home whose raw/ is being written, and what its ledger must say: counts, and the charge by bucket in US dollars."""

    home: Home
    requests: int = 0
    attempts: int = 0
    charged: dict[str, Decimal] = field(default_factory=lambda: {"official_credit": Decimal(0), "routed_balance": Decimal(0)})
    next_seq: int = 1

    def write_book(self) -> None:
        """The book that the arithmetic above is written for."""
        self.home.book.mkdir(parents=True, exist_ok=True)
        for name, text in BOOK.items():
            (self.home.book / name).write_text(text)

    def add(self, requests: int, *, day: int) -> None:
        """So many requests spread over one day, counted from the first of the month; days before it are in earlier months."""
        for first in range(0, requests, SEAL_REQUESTS):
            last = min(first + SEAL_REQUESTS, requests)
            self._seal(last - first, FIRST_DAY + day * DAY + DAY * first // requests, DAY * (last - first) // requests)

    def _seal(self, requests: int, begin: int, span: int) -> None:
        """One seal with so many requests spread over a span that begins at an instant, both in microseconds."""
        sealed = manifest.read(self.home.manifest)
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(
                f"CREATE TABLE calls AS {CALLS}",
                {"first": self.requests, "last": self.requests + requests, "begin": begin, "span": span, "seq": self.next_seq},
            )
            files = tuple(self._file(connection, kind, len(sealed)) for kind in ROWS)
            sums = connection.execute("SELECT payer, sum(picodollars)::BIGINT, sum(tries)::BIGINT FROM calls GROUP BY payer").fetchall()
        for payer, picodollars, tries in sums:
            self.charged["routed_balance" if payer == "routed" else "official_credit"] += Decimal(picodollars).scaleb(-12)
            self.attempts += tries
        self.requests += requests
        frames = sum(file.rows for file in files)
        number, previous = (sealed[-1].number + 1, sealed[-1].hash) if sealed else (1, manifest.GENESIS)
        sealed_at = Instant(begin + span)
        seal = Seal(number, previous, WRITER, self.next_seq, self.next_seq + frames - 1, (), sealed_at, files).chained()
        self.next_seq += frames
        with self.home.manifest.open("ab") as lines:
            lines.write(seal.line())

    def _file(self, connection: duckdb.DuckDBPyConnection, kind: str, seals: int) -> SealedFile:
        source, columns = ROWS[kind]
        select = ", ".join(f"{columns.get(name, 'NULL')} AS {name}" for name in ARROW[kind].names if name != "writer")
        rows = connection.sql(f"SELECT {select}, '{WRITER}' AS writer FROM {source} ORDER BY seq").to_arrow_table()
        rows = rows.select(ARROW[kind].names).cast(ARROW[kind])
        at = next(name for name in ("received_at", "opened_at", "closed_at") if name in rows.column_names)
        date = str(rows.column(at)[0].as_py().date())
        path = self.home.raw / kind / f"date={date}" / f"{WRITER}-{seals:04d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path, compression="zstd", row_group_size=ROW_GROUP)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SealedFile(str(path.relative_to(self.home.raw)), kind, rows.num_rows, path.stat().st_size, digest)


def make_month(root: Path, requests: int, told: Callable[[str], None] = lambda _: None) -> Month:
    """A home with one month of so many requests over 28 days; tells of each day that is written."""
    month = Month(Home(root))
    month.write_book()
    for day in range(DAYS):
        share = requests * (day + 1) // DAYS - requests * day // DAYS
        if share:
            month.add(share, day=day)
            told(f"month: day {day + 1} of {DAYS}, {month.requests} requests")
    return month
