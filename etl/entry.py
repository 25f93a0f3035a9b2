"""Whether the builder would book an entry that names something recorded: asked before the entry is recorded, by the builder's own models."""

from __future__ import annotations

from etl.build import preview
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


class NotBookableError(UsageError):
    """The ledger would not book this entry."""


def judge(home: Home, event: Event) -> None:
    """Raise NotBookableError with the reason for which the next build would not book `event`; or what a build of the book raises."""
    with preview(home, proposed=event) as connection:
        fault = connection.execute(_FAULTS, {"event": event.event_id}).fetchone()
    if fault is not None:
        raise NotBookableError(f"nothing was recorded, for {event.event} would not be booked: {fault[0]}", CURES.get(event.event, CURE))
