"""Close: the state of each month, what still blocks it with the cure, figures beside the vendors', and the files to take away."""

from __future__ import annotations

from etl.seals import TABLES_FOLDER, read_seals
from web.filters import choice_of, period_links, periods
from web.page import Page, Table, address, amount, count, receipt_address, text
from web.reading import Asked

PATH = "/close"
TOP = 200


def page(asked: Asked) -> Page:
    """Every month, and what stands against the chosen one."""
    db = asked.db
    known = periods(db)
    choice = choice_of(asked, known)
    at = {"period": choice.period}
    months = db.execute(
        "SELECT period, status, requests, charged_requests, free_requests, suspense_requests, charged, suspense, unpriced, blockers, currency, "
        "seal_hash FROM periods ORDER BY period DESC"
    ).fetchall()
    findings = db.execute(
        f"SELECT kind, subject, detail, rows, blocks_close FROM data_quality WHERE $period IS NULL OR period IS NULL OR period = $period "
        f"ORDER BY blocks_close DESC, kind, subject LIMIT {TOP + 1}",
        at,
    ).fetchall()
    unpriced = db.execute(
        f"SELECT request_id, channel, upstream_model, meter, quantity, reason FROM unpriced WHERE $period IS NULL OR period = $period "
        f"ORDER BY reason, request_id, meter LIMIT {TOP + 1}",
        at,
    ).fetchall()
    figures = db.execute(
        "SELECT period, source, subject, request_id, channel, our_amount, vendor_amount, difference, class, currency FROM reconciliation "
        f"WHERE $period IS NULL OR period = $period ORDER BY difference IS NULL, abs(difference) DESC, period, source, subject, request_id LIMIT {TOP}",
        at,
    ).fetchall()
    return Page(
        title="Close",
        lead="`make ledger` closes each month in order, a day after its end, when nothing stands against it.",
        choices=period_links(choice, known, PATH),
        tables=[
            Table(
                "Months",
                ("month", "status", "requests", "charged", "free", "in suspense", "amount charged", "amount in suspense", "unpriced",
                 "blocked by", "seal"),
                [
                    (text(period, address("/", {"period": period})), text(status), count(requests), count(charged), count(free), count(held),
                     amount(amount_charged, currency), amount(suspense, currency), count(lines), text(blockers or "nothing"),
                     text(seal[:16] if seal else "open"))
                    for period, status, requests, charged, free, held, amount_charged, suspense, lines, blockers, currency, seal in months
                ],
                "no month has anything in it",
            ),
            _files(asked, choice.period),
            Table(
                "Findings",
                ("kind", "about", "what, and what to do", "rows", "blocks the close"),
                [(text(kind), text(subject), text(detail), count(rows), text(blocks)) for kind, subject, detail, rows, blocks in findings[:TOP]],
                "nothing to report",
                note=f"the first {TOP} are shown" if len(findings) > TOP else None,
                name="findings",
            ),
            Table(
                "Charge unknown, held in suspense",
                ("request", "channel", "model", "meter", "quantity", "why"),
                [
                    (text(request_id, receipt_address(request_id)), text(channel), text(model), text(meter), count(quantity), text(reason))
                    for request_id, channel, model, meter, quantity, reason in unpriced[:TOP]
                ],
                "every charge is known",
                note=f"the first {TOP} are shown" if len(unpriced) > TOP else None,
                name="unpriced",
            ),
            Table(
                "Vendors' figures beside ours",
                ("month", "source", "about", "channel", "ours", "theirs", "difference", "class"),
                [
                    (text(period), text(source), text(subject, receipt_address(request_id) if request_id else None), text(channel),
                     amount(ours, currency), amount(theirs, currency), amount(difference, currency), text(kind))
                    for period, source, subject, request_id, channel, ours, theirs, difference, kind, currency in figures
                ],
                "no vendor has told a figure yet",
                name="reconciliation",
            ),
        ],
    )  # fmt: skip


def _files(asked: Asked, period: str | None) -> Table:
    """What the closes wrote for people, with the hash that each seal holds of it."""
    rows = [
        (text(seal.period), text(name, f"/downloads/{seal.period}/{name}"), count(facts["bytes"]), text(facts["sha256"]))
        for seal in read_seals(asked.home)
        if period in (None, seal.period)
        for name, facts in sorted(seal.outputs.items())
        if not name.startswith(TABLES_FOLDER)
    ]
    return Table("Files of closed months", ("month", "file", "bytes", "sha256"), rows, "no month of this choice is closed", name="files")
