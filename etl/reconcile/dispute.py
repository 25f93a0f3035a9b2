"""A pack for the vendor: what differs, our receipts, and the hashes of the evidence; no prompts, no secrets, no admin names.

A receipt goes in with the vendor's own facts only: who asked on our side (user, project, key, run, tags), from which
wallet, and what our other channels did, stays at home.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import orjson

from etl.published import open_ledger
from etl.receipt import Receipt, load
from etl.reconcile.page import Page
from etl.seals import read_seals
from etl.sources import Sources, read_sources, register
from etl.table import cell, jsonable
from schemas.errors import UsageError
from schemas.home import Home

# What a vendor may see of a receipt's facts.
FACTS = (
    "request_id created_at period endpoint api_model upstream_model served_model status outcome http_status input_tokens cached_input_tokens "
    "cache_write_tokens output_tokens reasoning_tokens usage_source input_price_per_mtok output_price_per_mtok final_charge vendor_charge "
    "currency client_request_id upstream_request_id receipt_digest"
).split()
ATTEMPT = (
    "ordinal channel sent_model served_model status http_status outcome started_at ended_at charged usage_source input_tokens output_tokens "
    "vendor_charge upstream_request_id response_id service_tier disposition disposition_reason"
).split()
STEP = "place step amount groups rule vendor_total our_total gap currency".split()
LINE = "attempt_ordinal meter quantity unit_price amount rate_effective_from priced_as".split()


class PackError(UsageError):
    """The place for the pack is taken or cannot be written."""


def write_pack(home: Home, page: Page, channels: Sequence[str], out: Path) -> Path:
    """Write the pack as a folder, aside and renamed, so that it is there whole or not at all. Raises PackError."""
    if out.exists():
        raise PackError(f"{out} is there already", "name a folder that does not exist, or remove it")
    if not out.absolute().parent.is_dir():
        raise PackError(f"{out.absolute().parent} is no folder", "make it, or name another place")
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    differing = [row for row in page.rows if row["difference"]]
    try:
        (aside / "receipts").mkdir(parents=True)
        _lines(aside / "differences.csv", differing)
        wanted = {row["match_id"] for row in differing}
        _lines(aside / "bill_lines.csv", [line for line in page.lines if line["match_id"] in wanted])
        _json(aside / "waterfall.json", [{name: jsonable(row[name]) for name in STEP} for row in page.waterfall])
        with open_ledger(home) as connection:
            requests = [row["request_id"] for row in page.requests if row["match_id"] in wanted]
            for number, request_id in enumerate(requests, 1):
                _json(aside / "receipts" / f"{number:06d}.json", _receipt(load(connection, request_id, published=True), channels))
            evidence = _evidence(home, connection, page, requests, channels)
        _json(aside / "evidence.json", evidence)
        (aside / "README.txt").write_text(_readme(page, len(differing), len(requests)), encoding="utf-8")
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(aside)}"
            for path in sorted(aside.rglob("*"))
            if path.is_file()
        ]
        (aside / "SHA256SUMS").write_text("\n".join(sums) + "\n")
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def _receipt(receipt: Receipt, channels: Sequence[str]) -> dict[str, Any]:
    """The part of a receipt that concerns the vendor."""
    attempts = [attempt for attempt in receipt.attempts if attempt.channel in channels]
    ordinals = {attempt.ordinal for attempt in attempts}
    return {
        **{name: jsonable(receipt.facts[name]) for name in FACTS},
        "attempts": [{name: jsonable(getattr(attempt, name)) for name in ATTEMPT} for attempt in attempts],
        "charges": [{name: jsonable(getattr(line, name)) for name in LINE} for line in receipt.lines if line.attempt_ordinal in ordinals],
    }


def _evidence(
    home: Home, connection: duckdb.DuckDBPyConnection, page: Page, requests: Sequence[str], channels: Sequence[str]
) -> dict[str, Any]:
    """Hashes: of the bill as received, of what was sent and what came back, of the files that hold it, and of the month's seal.

    What was recorded a moment ago is in no file yet, and its bytes have their hash already.
    """
    asked = {"ids": list(requests), "channels": list(channels)}
    recorded = connection.execute(
        "SELECT request_id, receipt_digest FROM ledger WHERE request_id IN (SELECT unnest($ids)) ORDER BY request_id",
        {"ids": list(requests)},
    ).fetchall()
    tries = connection.execute(
        "SELECT request_id, ordinal, raw_request_id, raw_ordinal FROM attempts "
        "WHERE request_id IN (SELECT unnest($ids)) AND channel IN (SELECT unnest($channels)) ORDER BY request_id, ordinal",
        asked,
    ).fetchall()
    sources = read_sources(home)
    sent, received = _hashes(sources, [raw for _, _, raw, _ in tries])
    seal = next((seal for seal in read_seals(home) if seal.period == page.period), None)
    return {
        "bills": [{name: bill[name] for name in ("account", "file", "sha256")} for bill in page.bills],
        "receipts": [{"request_id": name, "receipt_digest": digest} for name, digest in recorded],
        "replies": [
            {
                "request_id": name,
                "attempt_ordinal": ordinal,
                "asked_sha256": sent.get(raw),
                "reply_sha256": received.get((raw, raw_ordinal)),
            }
            for name, ordinal, raw, raw_ordinal in tries
        ],
        "month": None if seal is None else {"seal": seal.hash, "receipts_root": seal.receipts["root"], "public_key": seal.public_key},
        "raw_files": {file.path: file.sha256 for file in sources.named} if seal is None else seal.files,
        "raw_files_chain": sources.seals[-1].hash if sources.seals else None,
    }


def _hashes(sources: Sources, raw: Sequence[str]) -> tuple[dict[str, str | None], dict[tuple[str, int], str | None]]:
    """SHA-256 of the bytes that the client sent, by request, and of those that the vendor answered, by try."""
    with duckdb.connect(":memory:") as scratch:
        register(scratch, sources)
        asked = {"raw": list(raw)}
        sent = scratch.execute(
            "SELECT request_id, max(body_sha256) FROM all_request WHERE request_id IN (SELECT unnest($raw)) GROUP BY request_id", asked
        ).fetchall()
        received = scratch.execute(
            "SELECT request_id, ordinal, max(body_sha256) FROM all_response WHERE request_id IN (SELECT unnest($raw)) GROUP BY request_id, ordinal",
            asked,
        ).fetchall()
    return dict(sent), {(name, ordinal): digest for name, ordinal, digest in received}


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = list(rows[0]) if rows else ["nothing differs"]
        writer.writerow(names)
        # a text that a spreadsheet would take for a formula is quoted with an apostrophe
        writer.writerows([_safe(cell(row[name], "")) for name in names] for row in rows)


def _safe(text: str) -> str:
    is_number = text.lstrip("-").replace(".", "", 1).isdigit()
    return "'" + text if text[:1] in ("=", "+", "-", "@") and not is_number else text


def _json(path: Path, value: Any) -> None:
    path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _readme(page: Page, differing: int, receipts: int) -> str:
    first = page.waterfall[0]
    steps = "\n".join(f"  {row['step']:<16} {row['amount']:>24}   {row['rule']}" for row in page.waterfall if row["amount"])
    return f"""Your bill to us for {page.period}, {page.vendor}

  you bill        {first["vendor_total"]:>24} {first["currency"]}
  we recorded     {first["our_total"]:>24} {first["currency"]}
  difference      {first["gap"]:>24} {first["currency"]}

Where the difference comes from; the steps add up to it exactly:

{steps or "  nowhere: the two are equal"}

What is in this folder

  differences.csv   {differing} comparisons that are not equal, with what was seen
  bill_lines.csv    the lines of your bill that they are about, as we read them
  receipts/         {receipts} receipts of ours: your own ids, the usage that your replies reported, and the arithmetic at the agreed prices
  waterfall.json    the steps above for machines
  evidence.json     SHA-256 of your bill as we received it, of what we sent and what you answered, of the files that hold both,
                    digests of our receipts, and the seal of the month where it is closed
  SHA256SUMS        hashes of the files here

Every call was recorded before it was sent and when it ended, at our own proxy; token counts are the usage objects of your
replies. There are no prompts and no answers in this folder. Please name, for each comparison, the calls and the rule by
which you bill them, or correct the bill.
"""
