"""Slices: much is built in several goes, each written before the next is read, in the memory that one of them needs.

A slice of a whole month is the records of some seals, in the order of the manifest; of what came since, those of a share of the
requests. The models compare records with each other: those of one request, a call that was sent again, an answer that came
twice, a job, an entry with what it names. Requests that something of this kind ties to another slice go into the last one, with
all that is tied to them in turn, and so do entries: every model sees all that it compares, and a ledger in slices is the ledger
of one go. A tie is at least as wide as the models' conditions: one too many costs memory, one too few would cost a true figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import duckdb

from etl.reread import reread
from etl.sources import OF_A_REQUEST, ROW_KINDS, Sources, select_rows

Slice = Mapping[str, str]  # the select of its records by kind


def whole_months(sources: Sources, less: str, records: int) -> list[Slice]:
    """Slices of about so many records of all that could be read; `less` leaves out of rows `r` what closed months own.

    What one seal holds stays together, and what is not sealed yet is in the last.
    """
    files = list(_by_seal(sources, max(-(-sources.records // records), 1)))
    return [
        {kind: f"SELECT r.* FROM ({select_rows(kind, paths[kind], unsealed=paths is files[-1])}) r {less}" for kind in OF_A_REQUEST}
        for paths in files
    ]


def what_came(connection: duckdb.DuckDBPyConnection, records: int) -> list[Slice]:
    """Slices of about so many records of the tables `needed_KIND`."""
    counted = " + ".join(f"(SELECT count(*) FROM needed_{kind})" for kind in OF_A_REQUEST)
    ((found,),) = connection.execute(f"SELECT {counted}").fetchall()
    count = max(-(-found // records), 1)
    return [
        {kind: f"SELECT * FROM needed_{kind} WHERE hash(request_id) % {count} = {place}" for kind in OF_A_REQUEST} for place in range(count)
    ]


def part(connection: duckdb.DuckDBPyConnection, sources: Sources, slices: Sequence[Slice]) -> None:
    """Make `moved`, the hashes of the requests that go into the last of several slices, and their records, `moved_KIND`."""
    for kind in OF_A_REQUEST:
        parts = [f"SELECT {number} AS slice, * FROM ({of[kind]})" for number, of in enumerate(slices)]
        connection.execute(f"CREATE VIEW sliced_{kind} AS {' UNION ALL '.join(parts)}")
    _move(connection, sources, slices)
    for kind in OF_A_REQUEST:
        connection.execute(
            f"CREATE TABLE moved_{kind} AS SELECT r.* EXCLUDE (slice) FROM sliced_{kind} r SEMI JOIN moved m ON hash(r.request_id) = m.request"
        )
        connection.execute(f"DROP VIEW sliced_{kind}")


def show(connection: duckdb.DuckDBPyConnection, of: Slice, *, is_last: bool) -> None:
    """Make one of several slices what the `raw_` views show."""
    for kind in OF_A_REQUEST:
        select = f"SELECT r.* FROM ({of[kind]}) r ANTI JOIN moved m ON hash(r.request_id) = m.request"
        connection.execute(f"CREATE OR REPLACE VIEW raw_{kind} AS {select}{f' UNION ALL FROM moved_{kind}' if is_last else ''}")


def _by_seal(sources: Sources, count: int) -> Iterator[Mapping[str, Sequence[Path]]]:
    """The files that could be read, in at most so many groups of about equally many records."""
    readable = {path for paths in sources.files.values() for path in paths}
    group: dict[str, list[Path]] = {kind: [] for kind in ROW_KINDS}
    before, groups = 0, 1
    for seal in sources.seals:
        files = [file for file in seal.files if file.kind in ROW_KINDS and sources.raw / file.path in readable]
        if files and before * count >= groups * sources.records:
            yield group
            group = {kind: [] for kind in ROW_KINDS}
            groups += 1
        for file in files:
            group[file.kind].append(sources.raw / file.path)
        before += sum(file.rows for file in files)
    yield group


# ---- what goes into the last slice ----


def _move(connection: duckdb.DuckDBPyConnection, sources: Sources, slices: Sequence[Slice]) -> None:
    """Make `moved`."""
    seen = " UNION ALL ".join(f"SELECT slice, request_id FROM sliced_{kind}" for kind in OF_A_REQUEST)
    connection.execute(
        f"CREATE TABLE moved AS SELECT hash(request_id) AS request FROM ({seen}) GROUP BY request HAVING min(slice) <> max(slice)"
    )
    connection.execute(f"INSERT INTO moved {_NAMED}")
    connection.execute(f"CREATE TABLE special AS {_SPECIAL}")
    if connection.execute("FROM special LIMIT 1").fetchall():
        _read_later(connection, sources, slices)
        connection.execute(f"CREATE TABLE tie AS {_TIE}")
        connection.execute(
            "INSERT INTO moved SELECT request FROM tie WHERE key IN (SELECT key FROM tie GROUP BY key HAVING min(slice) <> max(slice))"
        )
        while connection.execute(_FOLLOWED).fetchall() != [(0,)]:
            pass
        connection.execute("DROP TABLE tie")
        connection.execute("DROP TABLE read_later")
    connection.execute("DROP TABLE special")


def _read_later(connection: duckdb.DuckDBPyConnection, sources: Sources, slices: Sequence[Slice]) -> None:
    """Make `read_later`: the ids of the answers that nobody has read yet, because they came in brotli."""
    connection.execute("CREATE TABLE read_later (slice INTEGER, request_id VARCHAR, id VARCHAR)")
    for number in range(len(slices)):
        connection.execute(f"CREATE OR REPLACE VIEW raw_response AS SELECT * EXCLUDE (slice) FROM sliced_response WHERE slice = {number}")
        if reread(connection, sources):
            connection.execute(f"INSERT INTO read_later SELECT {number}, raw_id, response_id FROM reread")
        connection.execute("DROP TABLE reread")


# What entries name: a request, by an id of its own, or a transaction of one of its tries (models/50_charge_legs.sql names those).
_NAMED = """
    WITH named AS (
        SELECT coalesce(request_id, json_extract_string(facts, '$.request_id')) AS request_id, json_extract_string(facts, '$.transaction') AS transaction_id
        FROM all_event
    ),
    tries AS (
        SELECT request_id, ordinal FROM sliced_attempt UNION ALL SELECT request_id, ordinal FROM sliced_response
    )
    SELECT hash(request_id) FROM named WHERE request_id IS NOT NULL
    UNION
    SELECT hash(request_id) FROM tries
    WHERE EXISTS (SELECT 1 FROM named WHERE transaction_id IS NOT NULL)
        AND 'tx_' || substr(sha256('charge' || chr(31) || request_id || chr(31) || ordinal), 1, 32) IN (
            SELECT transaction_id FROM named WHERE transaction_id IS NOT NULL
        )
"""

# Requests that can be tied to others at all: sent with a key or a count of retries, a poll or a download of a job's output, and of
# two doors those of the one that saw fewer. In a month without any nothing else needs to be looked at.
_SPECIAL = """
    WITH doors AS (
        SELECT door, count(*) AS requests FROM sliced_request WHERE door IN ('forward', 'gateway') GROUP BY door
    ),
    second AS (
        SELECT arg_min(door, requests) AS door FROM doors HAVING count(*) = 2
    ),
    polled AS (
        SELECT p.method, p.path FROM (SELECT DISTINCT method, path FROM sliced_request) p
        SEMI JOIN (SELECT * FROM table_endpoints WHERE job IS NOT NULL AND billing <> 'usage') e ON p.method = e.method AND rtrim(p.path, '/') LIKE e.suffix
    )
    SELECT DISTINCT hash(request_id) AS request FROM sliced_request r
    WHERE headers LIKE '%idempotency-key%'
        OR (headers LIKE '%x-stainless-retry-count%' AND headers NOT LIKE '%"x-stainless-retry-count":"0"%')
        OR door IN (SELECT door FROM second)
        OR (method, path) IN (SELECT (method, path) FROM polled)
"""

# Keys that two requests share, one of them special: ids that vendors give to answers, jobs and files; what a door names the other's
# request; and the call itself, by what was sent where.
_TIE = r"""
    WITH ids AS (
        SELECT slice, request_id, response_id AS id FROM sliced_response
        UNION ALL SELECT slice, request_id, id FROM read_later
        UNION ALL SELECT slice, request_id, json_extract_string(headers, '$."x-request-id"') FROM sliced_response WHERE headers LIKE '%"x-request-id"%'
        UNION ALL SELECT slice, request_id, json_extract_string(headers, '$."request-id"') FROM sliced_response WHERE headers LIKE '%"request-id"%'
        UNION ALL SELECT slice, request_id, json_extract_string(facts, '$.output_file_id') FROM sliced_response WHERE facts LIKE '%\_file\_id%' ESCAPE '\'
        UNION ALL SELECT slice, request_id, json_extract_string(facts, '$.error_file_id') FROM sliced_response WHERE facts LIKE '%\_file\_id%' ESCAPE '\'
        UNION ALL
        SELECT slice, request_id, regexp_extract(rtrim(path, '/'), '/(?:messages/batches|files)/([^/]+)/(?:results|content)$', 1) FROM sliced_request
    ),
    keyed AS MATERIALIZED (
        SELECT hash('answer', id) AS key, hash(request_id) AS request, slice FROM ids WHERE id <> ''
        UNION ALL
        SELECT hash('door', json_extract_string(headers, '$."x-ledger-request-id"')), hash(request_id), slice
        FROM sliced_response WHERE headers LIKE '%x-ledger-request-id%'
        UNION ALL SELECT hash('door', request_id), hash(request_id), slice FROM sliced_request WHERE door = 'gateway'
        UNION ALL SELECT hash('body', match_sha256), hash(request_id), slice FROM sliced_request WHERE match_sha256 IS NOT NULL
        UNION ALL SELECT hash('call', method, path), hash(request_id), slice FROM sliced_request WHERE match_sha256 IS NULL
    ),
    shared AS (
        SELECT key FROM keyed GROUP BY key HAVING min(request) <> max(request)
    )
    SELECT DISTINCT key, request, slice FROM keyed
    WHERE key IN (SELECT key FROM shared) AND key IN (SELECT k.key FROM keyed k SEMI JOIN special s ON k.request = s.request)
"""

_FOLLOWED = """
    INSERT INTO moved
    SELECT request FROM tie WHERE key IN (SELECT t.key FROM tie t SEMI JOIN moved m ON t.request = m.request)
    EXCEPT SELECT request FROM moved
"""
