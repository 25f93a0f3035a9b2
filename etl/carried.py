"""What a build carries over from the published ledger, and what it makes again.

A build that goes on from the published ledger leaves the rows of closed months where they are. Of the open months it makes
everything again; or, where little came since, only the requests that what came can touch: those that are new, that belong
to one logical request or one job with new ones, that share an answer's id with them, or that an entry names. Entries are
few and are always booked again. What is made from all requests (sums, balances, findings) is made from the edition's rows.
The result is that of a build of everything: whoever cannot be sure makes everything again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Container, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import duckdb
import orjson

from etl.closed import (
    OF_THE_BOOK,
    Closed,
    charged_before,
    closed_rows,
    register_before,
    register_closed,
    register_seals,
    register_settled,
    rows_of_the_book,
)
from etl.edition import Change, Edition, own_rows
from etl.published import LedgerUnreadableError, NoLedgerError, open_ledger
from etl.reread import reread
from etl.seals import REOPENED, SEAL_FILE, MonthSeal, SealBroken, folder, superseded, whole
from etl.sources import OF_A_REQUEST, Sources
from schemas import durable
from schemas.book import Book
from schemas.home import Home
from schemas.ledger import BY_NAME, TABLES

BASIS_FILE = "ledger.basis.json"
FEW = 5  # where more than one in so many requests of the open months is new, all of them are made again
PROJECT = Path(__file__).parent.parent

# Tables that are made from the edition's rows, each with the condition that picks what is made again; None: all of it.
FROM_ALL: dict[str, str | None] = {
    "wallet_statement": 'posted_at >= (SELECT "at" FROM stated_from)',
    "wallet_balances": None,
    "wallet_lots": None,
    "balance_proof": "{open}",
    "route_health": "period IN (SELECT period FROM touched WHERE is_open)",
    "key_usage": "{open}",
    "usage_daily": "day IN (SELECT day FROM touched)",
    "runs": "run_id IN (SELECT run_id FROM touched)",
    "audit_trail": "{open}",
    "data_quality": "period IS NULL OR {open}",
    "periods": "{open}",
    "bills": None,
    "bill_lines": None,
    "reconciliation_requests": None,
    "reconciliation_waterfall": None,
    "reconciled_months": None,
}
# Of the others, which rows are made again where it is not those of the requests that are.
OF_REQUESTS = "request_id IN (SELECT request_id FROM stale_request)"
STALE: dict[str, str | None] = {
    "journal": f"{{open}} AND (kind NOT IN ('charge', 'suspense') OR {OF_REQUESTS})",
    "reconciliation": f"source = 'bill' OR (source = 'snapshot' AND {{open}}) OR {OF_REQUESTS}",
    "wallet_holds": None,
    "key_permissions": None,
    "build_inputs": None,
    **dict.fromkeys(OF_THE_BOOK),
}


@dataclass(frozen=True, slots=True)
class Basis:
    """What a published ledger was made from; it stands beside it, and is worth nothing for any other file."""

    sha256: str
    code: str
    book: str
    seals: dict[str, str]  # the hash of each closed month's seal, by the month, in order
    bodies: dict[str, list[int]]  # size and instant of change (ns) of each file of bodies that was at hand, and of each key of theirs

    def carries(self, closed: Closed) -> bool:
        """Whether the months that it knew as closed still are, and the code that made it is this."""
        return (
            self.code == code_digest()
            and list(self.seals.items()) == [(seal.period, seal.hash) for seal in closed.seals][: len(self.seals)]
        )


@cache
def code_digest() -> str:
    """SHA-256 over everything that decides what a build makes: the code, its tables and the release of DuckDB."""
    digest = hashlib.sha256(duckdb.__version__.encode())
    for package in ("etl", "schemas"):
        for path in sorted((PROJECT / package).rglob("*")):
            if path.suffix in (".py", ".sql", ".csv", ".toml", ".json"):
                digest.update(f"{path.relative_to(PROJECT)}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def read_basis(home: Home) -> Basis | None:
    """What the published ledger was made from; null where nobody knows."""
    try:
        facts = orjson.loads((home.ledger / BASIS_FILE).read_bytes())
        return Basis(**{**facts, "seals": dict(facts["seals"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_basis(home: Home, sha256: str, book: Book, closed: Closed, sources: Sources) -> str:
    """Say what the published ledger was made from; the SHA-256 of that."""
    seals = {seal.period: seal.hash for seal in closed.seals}
    basis = Basis(sha256, code_digest(), book.digest, seals, {**_stamps(_bodies(sources)), **_stamps(_keys(home))})
    content = orjson.dumps(asdict(basis), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    durable.replace(home.ledger / BASIS_FILE, content)
    return hashlib.sha256(content).hexdigest()


def lost(home: Home, there: Collection[str]) -> dict[str, str]:
    """Closed months, each with its seal's hash, whose seal is not `there` and was not put aside either: what was published still knows of them."""
    basis = read_basis(home)
    known = set(basis.seals.items()) if basis else set()
    try:
        with open_ledger(home) as published:
            known.update(published.execute("SELECT period, seal_hash FROM periods WHERE status = 'closed'").fetchall())
    except (NoLedgerError, LedgerUnreadableError, duckdb.Error):  # it can always be made again; then the basis alone knows
        pass
    gone = [(period, seal) for period, seal in sorted(known) if seal not in there]
    return {period: seal for period, seal in gone if seal not in {old.hash for old in whole(superseded(home, period)).values()}}


def check_none_lost(home: Home, seals: Collection[MonthSeal], reopened: Container[str] = ()) -> None:
    """Raise SealBroken for a month that was closed and whose seal is gone, unless it is among those that somebody `reopened`.

    Without this a month would be open again, and take what came late, because a file is missing. A month's folder without a
    seal says nothing: a close that did not come to its end leaves one too.
    """
    for period, seal in lost(home, {seal.hash for seal in seals}).items():
        if seal not in reopened:
            subject = f"ledger/{period}/{SEAL_FILE}" if folder(home, period).exists() else f"ledger/{period}"
            raise SealBroken(period, subject, "is missing, though the month was closed")


def reopened_seals(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The seals of months that recorded events, of which no closed month was built yet, name as reopened."""
    select = f"SELECT json_extract_string(facts, '$.seal') FROM all_event WHERE event = '{REOPENED}'"
    return {seal for (seal,) in connection.execute(select).fetchall()}


def _bodies(sources: Sources) -> dict[str, Path]:
    return {file.path: sources.raw / file.path for file in sources.body_files}


def _keys(home: Home) -> dict[str, Path]:
    return {f"keys/{path.name}": path for path in sorted(home.body_keys.glob("*"))}


def _stamps(paths: dict[str, Path]) -> dict[str, list[int]]:
    return {name: [found.st_size, found.st_mtime_ns] for name, path in paths.items() if path.exists() and (found := path.stat())}


# ---- before the models ----


def register_scope(connection: duckdb.DuckDBPyConnection, closed: Closed, sources: Sources, book: Book, basis: Basis | None) -> bool:
    """Make visible the records of this build (`raw_`), what it replaces, and everything that stays and that its models ask for.

    Returns whether these are all records of the open months.
    """
    register_closed(connection, closed)
    show_entries(connection, closed)
    if closed.in_edition:
        connection.execute(SOURCE_AFTER)
    goes_on = closed.in_edition and basis is not None and _goes_on(connection, closed, sources, book, basis)
    if goes_on:
        _narrow(connection, sources)
    else:
        _everything_open(connection, closed)
    register_before(connection, closed)
    _register_standing(connection, closed)
    register_seals(connection, closed)
    return not goes_on


def show_entries(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    """Make `raw_event` the events that no closed month owns."""
    less = "ANTI JOIN closed_event c ON r.event_id = c.event_id" if closed.seals else ""
    connection.execute(f"CREATE OR REPLACE VIEW raw_event AS SELECT r.* FROM all_event r {less}")


def _goes_on(connection: duckdb.DuckDBPyConnection, closed: Closed, sources: Sources, book: Book, basis: Basis) -> bool:
    """Whether the open months, too, can be gone on with: then what came since is known, and what it touches."""
    return (
        basis.book == book.digest
        and _are_there(closed.home, sources, basis)
        and _is_plain(connection, closed, sources, book)
        and _is_little(connection)
    )


def _everything_open(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    if closed.seals:
        # closed months may have many requests, and few of them have a record here: they are looked for once, not with each reading
        found = " UNION ".join(
            f"SELECT r.request_id FROM all_{kind} r SEMI JOIN closed_request c ON r.request_id = c.raw_id" for kind in OF_A_REQUEST
        )
        connection.execute(f"CREATE TABLE closed_record AS {found}")
    for kind in OF_A_REQUEST:
        connection.execute(f"CREATE VIEW raw_{kind} AS SELECT r.* FROM all_{kind} r {closed.less}")
    if closed.in_edition:
        connection.execute(f"CREATE TABLE stale_request AS SELECT request_id FROM published.ledger WHERE {closed.is_open}")
        connection.execute(_REPLACED)
        return
    connection.execute("CREATE TABLE stale_request (request_id VARCHAR)")
    parts = (
        closed.sealed("ledger") or "(SELECT NULL::VARCHAR AS period, NULL::TIMESTAMP AS created_at, NULL::VARCHAR AS run_id WHERE false)"
    )
    connection.execute(f"CREATE TABLE replaced_request AS SELECT period, created_at, run_id FROM {parts}")


_REPLACED = f"""
    CREATE TABLE replaced_request AS
    SELECT period, created_at, run_id FROM published.ledger WHERE {OF_REQUESTS}
"""


def _are_there(home: Home, sources: Sources, basis: Basis) -> bool:
    """Whether the bodies that requests were counted from, and the keys of theirs, are what they were: else they are counted again."""
    bodies = _bodies(sources)
    now = {**_stamps(bodies), **_stamps(_keys(home))}
    return all(now.get(name) == stamp for name, stamp in basis.bodies.items() if name in bodies or name.startswith("keys/"))


def hangs_together(book: Book) -> bool:
    """Whether a request's charge can hang on all others': a free allowance is used up in their order."""
    return any(row.term.startswith("allowance") for row in book.terms)


def _is_plain(connection: duckdb.DuckDBPyConnection, closed: Closed, sources: Sources, book: Book) -> bool:
    """Whether no request's charge hangs on all others' (free allowances), every file could be read, and nothing that was lost came back."""
    ((unread,),) = connection.execute(f"{_UNREAD} AND {closed.is_open}").fetchall()
    before: dict[str, int] = dict(connection.execute("SELECT writer, last_seq FROM published.build_inputs").fetchall())
    return (
        not unread
        and not any(finding.kind == "quarantined_file" for finding in sources.findings)
        and not hangs_together(book)
        and all(sources.positions.get(writer, 0) >= seq for writer, seq in before.items())
    )


_UNREAD = """
    SELECT count(*) FROM published.data_quality WHERE (
        kind IN ('quarantined_file', 'missing_key', 'altered_body') OR (
            kind IN ('loss', 'damage')
            AND (kind, subject) NOT IN (SELECT (kind, subject) FROM source_finding)
            AND subject NOT IN (SELECT event_id FROM published.audit_trail)
        )
    )
"""


def _is_little(connection: duckdb.DuckDBPyConnection) -> bool:
    ((fresh, every),) = connection.execute(
        f"SELECT count(*) FILTER (WHERE {NEW}), count(*) FROM all_request r LEFT JOIN source_after a ON r.writer = a.writer"
    ).fetchall()
    return bool(fresh * FEW <= every)


# How far the published ledger has read each journal, what came since, and whose that is.
SOURCE_AFTER = "CREATE TABLE source_after AS SELECT writer, last_seq FROM published.build_inputs"
NEW = "r.seq > coalesce(a.last_seq, 0)"
FRESH = " UNION ".join(
    f"SELECT r.request_id FROM all_{kind} r LEFT JOIN source_after a ON r.writer = a.writer WHERE {NEW}" for kind in OF_A_REQUEST
)

# Requests that an entry made since names, by any of their ids or by a transaction of theirs.
_NAMED = f"""
    SELECT d.raw_request_id FROM published.dispositions d
    WHERE d.request_id IN (
        WITH entries AS (
            SELECT coalesce(r.request_id, json_extract_string(r.facts, '$.request_id')) AS about_id,
                json_extract_string(r.facts, '$.transaction') AS transaction_id
            FROM all_event r LEFT JOIN source_after a ON r.writer = a.writer WHERE {NEW}
        )
        SELECT o.request_id FROM published.dispositions o WHERE o.raw_request_id IN (SELECT about_id FROM entries WHERE about_id IS NOT NULL)
        UNION
        SELECT j.request_id FROM published.journal j
        WHERE j.transaction_id IN (SELECT transaction_id FROM entries WHERE transaction_id IS NOT NULL)
    )
"""

# What each pass finds that the new ones of the pass before are tied to; `raw_response` holds theirs. Each condition is at least as
# wide as the models'.
_TIED = (
    # one answer: the same id of the vendor, in the body or in a header, or the id of the other door's request
    """
    WITH ids AS (
        SELECT response_id AS id FROM raw_response
        UNION SELECT response_id FROM reread
        UNION SELECT json_extract_string(r.headers, '$."' || h.header || '"') FROM raw_response r JOIN table_request_ids h ON h.side = 'response'
        UNION SELECT json_extract_string(headers, '$."x-ledger-request-id"') FROM raw_response
    )
    SELECT d.raw_request_id FROM published.dispositions d WHERE d.request_id IN (
        SELECT p.request_id FROM published.request_ids p
        WHERE p.kind IN ('response_id', 'upstream_request_id', 'request', 'linked') AND p.id IN (SELECT id FROM ids WHERE id <> '')
    )
    """,
    # the forward door's record of a call that names the gateway's
    """
    SELECT r.request_id FROM all_response r
    WHERE r.closed_at >= (
            SELECT min(q.received_at) FROM all_request q WHERE q.door = 'gateway' AND q.request_id IN (SELECT raw_id FROM latest)
        )
        AND json_extract_string(r.headers, '$."x-ledger-request-id"') IN (SELECT raw_id FROM latest)
    """,
    # one call sent again, or recorded at both doors
    """
    WITH calls AS (
        SELECT DISTINCT path, match_sha256 FROM all_request WHERE request_id IN (SELECT raw_id FROM latest)
    ),
    alike AS (
        SELECT r.request_id, r.match_sha256, r.path, r.door,
            r.headers LIKE '%idempotency-key%' OR (r.headers LIKE '%x-stainless-retry-count%'
                AND coalesce(try_cast(json_extract_string(r.headers, '$."x-stainless-retry-count"') AS INTEGER), 0) > 0) AS is_counted
        FROM all_request r JOIN calls c ON r.path = c.path AND r.match_sha256 IS NOT DISTINCT FROM c.match_sha256
    )
    SELECT request_id FROM alike
    QUALIFY bool_or(is_counted) OVER (PARTITION BY path, match_sha256) OR min(door) OVER (PARTITION BY path, match_sha256)
        <> max(door) OVER (PARTITION BY path, match_sha256)
    """,
    # jobs, which are few: where one is asked for, polled or fetched, all of them
    """
    SELECT a.raw_request_id FROM published.attempts a
    WHERE (a.job_id IS NOT NULL OR a.result_files IS NOT NULL) AND EXISTS (
        SELECT 1 FROM all_request r JOIN table_endpoints e ON r.method = e.method AND rtrim(r.path, '/') LIKE e.suffix
        WHERE e.job IS NOT NULL AND r.request_id IN (SELECT raw_id FROM latest)
    )
    """,
    # one logical request
    """
    SELECT b.raw_request_id FROM published.dispositions a JOIN published.dispositions b ON a.request_id = b.request_id
    WHERE a.raw_request_id IN (SELECT raw_id FROM latest)
    """,
)


def _narrow(connection: duckdb.DuckDBPyConnection, sources: Sources) -> None:
    """Register only the records that came since and what those can touch."""
    connection.execute(f"CREATE TABLE needed AS SELECT DISTINCT request_id AS raw_id FROM ({FRESH} UNION {_NAMED})")
    connection.execute("CREATE TABLE latest AS FROM needed")
    connection.execute("CREATE TABLE needed_response AS SELECT * FROM all_response WHERE false")
    connection.execute("CREATE VIEW raw_response AS SELECT * FROM needed_response WHERE request_id IN (SELECT raw_id FROM latest)")
    while connection.execute("SELECT count(*) FROM latest").fetchall() != [(0,)]:
        # all of them are read once a pass: what answers say of each other stands in their headers, the widest column there is
        connection.execute("INSERT INTO needed_response SELECT * FROM all_response WHERE request_id IN (SELECT raw_id FROM latest)")
        reread(connection, sources)
        tied = " UNION ".join(f"({select})" for select in _TIED)
        connection.execute(f"CREATE TABLE found AS SELECT raw_request_id AS raw_id FROM ({tied}) EXCEPT SELECT raw_id FROM needed")
        connection.execute("INSERT INTO needed FROM found")
        connection.execute("CREATE OR REPLACE TABLE latest AS FROM found")
        connection.execute("DROP TABLE found")
        connection.execute("DROP TABLE reread")
    connection.execute("DELETE FROM needed WHERE raw_id IN (SELECT raw_id FROM closed_request)")
    connection.execute("DELETE FROM needed_response WHERE request_id NOT IN (SELECT raw_id FROM needed)")
    for kind in OF_A_REQUEST:
        if kind != "response":
            connection.execute(f"CREATE TABLE needed_{kind} AS SELECT * FROM all_{kind} WHERE request_id IN (SELECT raw_id FROM needed)")
        connection.execute(f"CREATE OR REPLACE VIEW raw_{kind} AS FROM needed_{kind}")
    connection.execute(
        "CREATE TABLE stale_request AS SELECT DISTINCT request_id FROM published.dispositions WHERE raw_request_id IN (SELECT raw_id FROM needed)"
    )
    connection.execute(_REPLACED)


def _register_standing(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    """Make visible the requests and charges that this build takes as they were booked; an entry may name one of them."""
    statement, journal = closed.sealed("wallet_statement"), closed.sealed("journal")
    if closed.in_edition:
        connection.execute(
            "CREATE VIEW known_request AS SELECT raw_request_id AS raw_id, request_id FROM published.dispositions "
            "WHERE request_id NOT IN (SELECT request_id FROM stale_request)"
        )
        stands = (
            f"period IN ({closed.periods}) OR (kind IN ('charge', 'suspense') AND request_id NOT IN (SELECT request_id FROM stale_request))"
        )
        statement = f"(SELECT * FROM published.wallet_statement WHERE {stands})"
        journal = f"(SELECT * FROM published.journal WHERE {stands})"
    else:
        connection.execute("CREATE VIEW known_request AS SELECT raw_id, request_id FROM closed_request")
    connection.execute(f"CREATE TABLE closed_charge AS {charged_before(statement or _NO_STATEMENT, 'known_request')}")
    register_settled(connection, journal, statement, closed.sealed("wallet_holds"))


_NO_STATEMENT = (
    "(SELECT NULL::VARCHAR AS request_id, NULL::VARCHAR AS wallet, NULL::VARCHAR AS bucket, NULL::VARCHAR AS kind, "
    "0::DECIMAL(38,12) AS amount WHERE false)"
)


# ---- between the models of single requests and those of all ----


def settle_slice(connection: duckdb.DuckDBPyConnection, edition: Edition, closed: Closed) -> int:
    """Write what was made of the requests of one slice that is not the last; how many tables. What bears on all requests is left to `settle`."""
    changes = [change for change in _own_changes(connection, edition, closed) if change.stale]
    edition.write(changes)
    legs = "INSERT INTO earlier_leg" if edition.has_slices else "CREATE TABLE earlier_leg AS"
    connection.execute(f"{legs} FROM wallet_legs")
    connection.execute("INSERT INTO replaced_request SELECT DISTINCT period, CAST(created_at AS DATE), run_id FROM memory.ledger")
    edition.has_slices = True
    return len(changes)


def _own_changes(connection: duckdb.DuckDBPyConnection, edition: Edition, closed: Closed) -> list[Change]:
    """This build's rows of what it makes before the sums over all. What the rows of single requests replace goes with the first slice;
    a table without a condition is one that all requests share.
    """
    conditions = {made: _condition(made.name, closed) for made in TABLES if made.name not in FROM_ALL}
    return [own_rows(connection, made, "false" if stale and edition.has_slices else stale) for made, stale in conditions.items()]


def settle(connection: duckdb.DuckDBPyConnection, edition: Edition, closed: Closed) -> int:
    """Write what was made of single requests into the edition, whose rows later models read by the same names; how many tables."""
    if edition.has_slices:
        connection.execute("INSERT INTO wallet_legs FROM earlier_leg")
        connection.execute("DROP TABLE earlier_leg")
    connection.execute("CREATE TABLE first_open AS SELECT min(starts_at) AS starts_at FROM book_period WHERE service_period = period")
    if edition.goes_on:
        _go_on_from_statement(connection, closed)
        first_changes = [Change(BY_NAME["wallet_statement"], "", _condition("wallet_statement", closed))]
    else:
        first_changes = [Change(owned, select, "false") for owned, select in closed_rows(closed)]
    own = _own_changes(connection, edition, closed)
    changes = [
        replace(change, select=rows_of_the_book(closed, change.table.name)) if change.table.name in OF_THE_BOOK else change
        for change in own
    ]
    edition.write([*first_changes, *changes])
    for change in own:
        name = change.table.name
        connection.execute(f'DROP TABLE "{name}"')
        connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM published."{name}"')
    first = "posted_at >= (SELECT starts_at FROM first_open)" if closed.seals else "true"
    connection.execute(f"CREATE VIEW earlier_statement AS SELECT * FROM published.wallet_statement WHERE {first}")
    return len(own)


def _condition(name: str, closed: Closed) -> str | None:
    found = {**FROM_ALL, **STALE}.get(name, OF_REQUESTS)
    return found and found.replace("{open}", closed.is_open)


def _go_on_from_statement(connection: duckdb.DuckDBPyConnection, closed: Closed) -> None:
    """Find the first leg or hold that changed; legs from there on join `wallet_legs`, and `opening` is what those before left."""
    gone = _condition("journal", closed)  # of the journal's rows these are the ones on wallets
    # a hold of a closed month may end now; what that month's legs were followed by stays as it was sealed
    floor = "(SELECT starts_at FROM first_open)" if closed.seals else "TIMESTAMP '0001-01-01 00:00:00'"
    columns = ", ".join(BY_NAME["wallet_holds"].column_names)
    holds = [f"SELECT {columns} FROM {place}wallet_holds" for place in ("memory.", "published.")]
    legs = "entry_id, posted_at, period, wallet, bucket, kind, amount, request_id, actor, reason, currency"
    own, theirs = f"SELECT {legs} FROM wallet_legs", f"SELECT {legs} FROM published.wallet_statement WHERE {gone}"
    connection.execute(
        f"""
        CREATE TABLE stated_from AS
        SELECT greatest(coalesce(min("at"), TIMESTAMP '9999-12-31 00:00:00'), {floor}) AS "at" FROM (
            SELECT posted_at AS "at" FROM (({own} EXCEPT {theirs}) UNION ALL ({theirs} EXCEPT {own}))
            UNION ALL
            SELECT placed_at FROM (({holds[0]} EXCEPT {holds[1]}) UNION ALL ({holds[1]} EXCEPT {holds[0]}))
        )
        """
    )
    connection.execute('DELETE FROM wallet_legs WHERE posted_at < (SELECT "at" FROM stated_from)')
    connection.execute(
        f"INSERT INTO wallet_legs SELECT {legs} FROM published.wallet_statement "
        f'WHERE posted_at >= (SELECT "at" FROM stated_from) AND NOT ({gone})'
    )
    connection.execute(
        """
        CREATE OR REPLACE TABLE opening AS
        SELECT wallet, bucket, currency, balance_after AS balance FROM published.wallet_statement
        WHERE posted_at < (SELECT "at" FROM stated_from)
        QUALIFY row_number() OVER (PARTITION BY wallet, bucket, currency ORDER BY posted_at DESC, entry_id DESC) = 1
        UNION ALL
        SELECT * FROM first_opening o ANTI JOIN published.wallet_statement s
            ON o.wallet = s.wallet AND o.bucket = s.bucket AND o.currency = s.currency AND s.posted_at < (SELECT "at" FROM stated_from)
        """
    )


# ---- after the models ----


def finish(connection: duckdb.DuckDBPyConnection, edition: Edition, closed: Closed) -> int:
    """Write what was made from all requests into the edition; how many tables."""
    changes = list(_last_changes(connection, closed))
    edition.write(changes)
    connection.execute(
        "UPDATE published.periods SET status = 'closed', seal_hash = s.hash FROM closed_seal s "
        "WHERE periods.period = s.period AND seal_hash IS DISTINCT FROM s.hash"
    )
    return len(changes)


def _last_changes(connection: duckdb.DuckDBPyConnection, closed: Closed) -> Iterator[Change]:
    for name in FROM_ALL:
        stale = "false" if name == "wallet_statement" else _condition(name, closed)
        yield own_rows(connection, BY_NAME[name], stale)
    yield Change(BY_NAME["reconciliation"], "SELECT * FROM snapshot_figures UNION ALL BY NAME SELECT * FROM bill_figures", "false")


def register_alone(connection: duckdb.DuckDBPyConnection) -> None:
    """What `settle` gives to later models, for a build that publishes nothing."""
    columns = ", ".join(f'"{column.name}" {column.type}' for column in BY_NAME["wallet_statement"].columns)
    connection.execute(f"CREATE TABLE earlier_statement ({columns})")
