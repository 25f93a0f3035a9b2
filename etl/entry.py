"""Whether the builder would book an entry that names something recorded: asked before the entry is recorded, by the builder's own models."""

from __future__ import annotations

import orjson

from etl.build import preview
from etl.published import open_ledger
from schemas.errors import UsageError
from schemas.home import Home
from schemas.records import Event

CURES = {
    "wallet_reverse": 'take it from: tokenledger sql "SELECT transaction_id, posted_at, kind, request_id, reference FROM journal ORDER BY posted_at"',
    "wallet_release": 'take it from: tokenledger sql "SELECT hold_id, wallet, bucket, amount, ends_at FROM wallet_holds"',
}
CURE = "tokenledger receipt ID tells a request's own id, what it was charged, and which wallet and bucket paid, from any id of it"

# The last: of a refund and a reversal, neither of which is built, the build books the refund, whichever came first.
_FAULTS = """
    WITH legs AS (
        SELECT transaction_id, account, kind, request_id FROM journal
        UNION ALL SELECT transaction_id, account, kind, request_id FROM closed_leg
    )
    SELECT fault FROM admin_events WHERE event_id = $event AND fault IS NOT NULL
    UNION ALL
    SELECT fault FROM reversals WHERE event_id = $event AND fault IS NOT NULL
    UNION ALL
    SELECT 'it names a request that is not recorded' FROM admin_events
    WHERE event_id = $event AND fault IS NULL AND about_id IS NOT NULL AND logical_id IS NULL
    UNION ALL
    SELECT 'the charge of its request was reversed before'
    FROM admin_events e
    JOIN legs c ON c.kind = 'charge' AND c.request_id = e.logical_id AND c.account = 'wallet:' || e.wallet || ':' || e.bucket
    JOIN reversals r ON c.transaction_id = r.reverses
    WHERE e.event_id = $event AND e.event = 'wallet_refund' AND e.fault IS NULL AND r.fault = 'the request that it names was refunded'
        AND NOT EXISTS (
            FROM legs f WHERE f.kind = 'refund' AND f.request_id = c.request_id AND f.account = c.account AND f.transaction_id <> e.transaction_id
        )
"""


# What a month that may not close names, and whoever accepts it: findings, and tries whose charge is unknown.
_SUBJECTS = (
    "SELECT subject, detail FROM data_quality UNION SELECT a.raw_request_id || '/' || a.raw_ordinal, u.reason FROM unpriced u "
    "JOIN attempts a ON u.request_id = a.request_id AND u.attempt_ordinal = a.ordinal"
)


class NoSuchFindingError(UsageError):
    """Nothing in the published ledger has this subject."""


class NotBookableError(UsageError):
    """The ledger would not book this entry."""


def judge(home: Home, event: Event) -> None:
    """Raise NotBookableError with the reason for which the next build would not book `event`; or what a build of the book raises."""
    with preview(home, proposed=event) as connection:
        fault = connection.execute(_FAULTS, {"event": event.event_id}).fetchone()
    if fault is not None:
        raise NotBookableError(f"nothing was recorded, for {event.event} would not be booked: {fault[0]}", CURES.get(event.event, CURE))


def judge_subject(home: Home, event: Event) -> None:
    """Raise NoSuchFindingError where a ledger is published and nothing in it has the subject that `event` accepts."""
    if not home.ledger_file.exists():
        return
    subject = orjson.loads(event.facts or "{}")["subject"]
    with open_ledger(home) as connection:
        found = connection.execute(f"SELECT 1 FROM ({_SUBJECTS}) WHERE subject = ? LIMIT 1", [subject]).fetchone()
    if found is None:
        cure = f'take it from: tokenledger sql "{_SUBJECTS} ORDER BY ALL"; what came since then is known after tokenledger ledger'
        raise NoSuchFindingError(f"nothing was recorded, for no finding has the subject {subject!r}", cure)
