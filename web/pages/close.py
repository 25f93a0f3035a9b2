"""Close: the state of each month, what still blocks it with the cure, the bills beside the books, and the files to take away."""

from __future__ import annotations

import hashlib

import duckdb

from etl.close import LAWS, standing
from etl.reconcile.month import Gap, gaps_of
from etl.seals import SEAL_FILE, TABLES_FOLDER, folder, read_seals
from schemas.home import Home
from web import figures
from web.filters import choice_of, period_faults, period_links, periods
from web.page import Cell, Page, Table, address, amount, count, receipt_address, text
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
    told = db.execute(
        "SELECT period, source, subject, request_id, channel, our_amount, vendor_amount, difference, class, currency FROM reconciliation "
        f"WHERE $period IS NULL OR period = $period ORDER BY difference IS NULL, abs(difference) DESC, period, source, subject, request_id LIMIT {TOP}",
        at,
    ).fetchall()
    shown = [choice.period] if choice.period else list(reversed(known))
    gaps = [(month, gap) for month in shown for gap in gaps_of(db, month)]
    drawn = [figures.waterfall(gap, month) for month, gap in gaps]
    return Page(
        title="Close",
        lead="`make ledger` closes each month in order, a day after its end, when nothing stands against it.",
        notices=period_faults(asked, known),
        choices=period_links(choice, known, PATH),
        figures=[figure for figure in drawn if figure is not None],
        tables=[
            Table(
                "Months",
                ("month", "status", "requests", "charged", "free", "in suspense", "amount charged", "amount in suspense", "unpriced",
                 "blocked by", "seal"),
                [
                    (text(period, address("/", {"period": period})), text(status), count(requests), count(charged), count(free), count(held),
                     amount(amount_charged, currency), amount(suspense, currency), count(lines), text(blockers or "nothing"),
                     Cell(seal[:16], seal) if seal else text("open"))
                    for period, status, requests, charged, free, held, amount_charged, suspense, lines, blockers, currency, seal in months
                ],
                "no month has anything in it: send a request through a door, then run `make ledger`",
            ),
            _against(db, asked.home, shown),
            _files(asked, choice.period),
            *_bills(db, choice.period, gaps),
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
                    for period, source, subject, request_id, channel, ours, theirs, difference, kind, currency in told
                ],
                "no vendor has told a figure yet: `tokenledger reconcile BILL --vendor V --period P` reads a bill",
                name="reconciliation",
            ),
        ],
    )  # fmt: skip


def _against(db: duckdb.DuckDBPyConnection, home: Home, months: list[str]) -> Table:
    """What keeps the open months from closing, each with the command that cures it."""
    open_months = {row[0] for row in db.execute("SELECT period FROM periods WHERE status = 'open'").fetchall()}
    laws = [law for law in LAWS if not law.adds_up]
    found = [refusal for month in months if month in open_months for refusal in standing(db, month, laws)]
    return Table(
        "What still blocks the close",
        ("month", "what", "what helps"),
        [(text(refusal.period), text(refusal.reason), text(home.typed(refusal.cure))) for refusal in found[:TOP]],
        "nothing stands against it",
        note=f"the first {TOP} of {len(found):,} are shown" if len(found) > TOP else None,
        name="standing",
    )


def _bills(db: duckdb.DuckDBPyConnection, period: str | None, gaps: list[tuple[str, Gap]]) -> list[Table]:
    """How far each vendor's bill and the books agree, and the steps between them."""
    rows = db.execute(
        "SELECT period, vendor, state, bills, vendor_total, our_total, gap, unexplained, currency FROM reconciled_months "
        "WHERE $period IS NULL OR period = $period ORDER BY period DESC, vendor",
        {"period": period},
    ).fetchall()
    months = Table(
        "Bills beside the books",
        ("month", "vendor", "state", "bills", "the vendor wants", "we booked", "gap", "of it unexplained"),
        [
            (text(month), text(vendor), text(state.replace("_", " ")), count(bills), *(amount(value, currency) for value in amounts))
            for month, vendor, state, bills, *amounts, currency in rows
        ],
        "no vendor was sent a request in this month",
        name="bills",
    )
    steps = Table(
        "The steps from the books to the bill",
        ("month", "vendor", "step", "amount", "comparisons", "what it is", "what to do"),
        [
            (text(month), text(gap.vendor), text(name), amount(moved, gap.currency), count(comparisons), text(rule), text(todo))
            for month, gap in gaps
            for name, moved, comparisons, rule, todo in gap.table
        ],
        "no step: bills and books agree",
        name="steps",
    )
    return [months, steps] if gaps else [months]


def _files(asked: Asked, period: str | None) -> Table:
    """What the closes wrote for people, with the hash that each seal holds of it, and the seals themselves."""
    rows = []
    for seal in read_seals(asked.home):
        if period not in (None, seal.period):
            continue
        rows += [
            (text(seal.period), text(name, f"/downloads/{seal.period}/{name}"), count(facts["bytes"]), text(facts["sha256"]))
            for name, facts in sorted(seal.outputs.items())
            if not name.startswith(TABLES_FOLDER)
        ]
        written = (folder(asked.home, seal.period) / SEAL_FILE).read_bytes()
        digest = hashlib.sha256(written).hexdigest()
        rows.append((text(seal.period), text(SEAL_FILE, f"/downloads/{seal.period}/{SEAL_FILE}"), count(len(written)), text(digest)))
    return Table("Files of closed months", ("month", "file", "bytes", "sha256"), rows, "no month of this choice is closed", name="files")
