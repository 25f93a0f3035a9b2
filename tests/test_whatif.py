"""What a month would have cost, and what a route really saved, worked by hand; the real book is untouched."""

from __future__ import annotations

import json as plain_json
from pathlib import Path

import pytest

from schemas.home import Home
from schemas.records import Record
from tests.rawdata import BOOK, NOON, SECOND, attempt, broken, built, request, response, usage
from tokenledger import run


def test_another_rate_file_prices_the_month_again(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Routed fails after 100 + 10 tokens (0.0000042 booked), official serves 1000 + 500 (0.00045). With routed at ten times its price
    the failure costs 0.000042. Routed saved nothing and lost 0.0000042 and a second.
    """
    records: list[Record] = [
        request("r1"),
        attempt("r1", 1, NOON, channel="routed"),
        broken("r1", 1, NOON + SECOND, usage=usage(100, 10), relayed=False),
        attempt("r1", 2, NOON + SECOND, channel="official", role="backup", reason="fallback"),
        response("r1", 2, NOON + 3 * SECOND, usage=usage(1000, 500)),
        request("r2", NOON + 60 * SECOND, match_sha256="2" * 64),
        attempt("r2", 1, NOON + 60 * SECOND, channel="routed"),
        response("r2", 1, NOON + 61 * SECOND, usage=usage(1000, 500)),
    ]
    built(home, records)
    before = home.ledger_file.read_bytes(), (home.book / "rates.csv").read_bytes()
    dearer = tmp_path / "rates.csv"
    dearer.write_text(BOOK["rates.csv"].replace("input,0.03,", "input,0.3,").replace("output,0.12,", "output,1.2,"))
    assert run(["whatif", "--period", "2026-10", "--rates", str(dearer), "--home", str(home.root), "--json"]) == 0
    channels = {row["channel"]: row for row in plain_json.loads(capsys.readouterr().out)["channels"]}
    routed, official = channels["routed"], channels["official"]
    # booked 0.0000042 + 0.00009; list price of what it served 0.00045
    assert (routed["booked"], routed["failed_cost"], routed["failed_ms"]) == ("0.000094200000", "0.000004200000", 1000)
    assert (routed["list_price"], routed["saved"]) == ("0.000450000000", "0.000355800000")
    assert (routed["what_if"], routed["difference"]) == ("0.000942000000", "0.000847800000")
    assert (official["booked"], official["what_if"]) == ("0.000450000000", "0.000450000000")
    assert (home.ledger_file.read_bytes(), (home.book / "rates.csv").read_bytes()) == before
    assert run(["whatif", "--period", "2026-10", "--route", "routed", "--home", str(home.root)]) == 0
    assert "official" not in capsys.readouterr().out
