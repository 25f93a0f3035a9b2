"""What a month would have cost, and what a route really saved, worked by hand; the real book is untouched."""

from __future__ import annotations

import json as plain_json
from pathlib import Path

import pytest

from schemas.home import Home
from schemas.records import Record
from tests.rawdata import BOOK, NOON, SECOND, attempt, broken, built, more_rates, request, response, terms, usage
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


def test_what_the_routed_channel_really_saved(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Routed at 0.03 and 0.12 a million, official at 0.15 and 0.60; each reply has 1000 + 500 tokens.

    served   routed: 0.00003 + 0.00006 = 0.00009; on official 0.00045
    fell     routed fails after 100 + 10 tokens (0.0000042) and 2 s, official serves: 0.0004542; on official 0.00045
    again    routed fails after 100 tokens (0.000003) and 1 s, routed serves: 0.000093; on official 0.00045
    lost     routed fails and nothing serves: what official had done nobody knows
    Booked 0.0006372, on official 0.00135: the prices saved 0.00072, the failures took 0.0000072 of it: 0.0007128. 3 s were added.
    """
    records: list[Record] = []
    for n, name in enumerate(("served", "fell", "again", "lost")):
        at = NOON + n * 600 * SECOND
        records += [request(name, at, match_sha256=f"{name:m<64}"[:64]), attempt(name, 1, at, channel="routed")]
        if name == "served":
            records += [response(name, 1, at + 4 * SECOND, usage=usage(1000, 500))]
        else:
            took = (2 if name == "fell" else 1) * SECOND
            output = 0 if name == "again" else 10
            records += [broken(name, 1, at + took, usage=usage(100, output), relayed=name == "lost")]
        if name in ("fell", "again"):
            backup = (
                {"channel": "official", "role": "backup", "reason": "fallback"}
                if name == "fell"
                else {"channel": "routed", "reason": "retry"}
            )
            records += [attempt(name, 2, at + took, **backup), response(name, 2, at + took + SECOND, usage=usage(1000, 500))]
    built(home, records)
    before = home.ledger_file.read_bytes()
    assert run(["whatif", "--period", "2026-10", "--route", "official", "--home", str(home.root), "--json"]) == 0
    page = plain_json.loads(capsys.readouterr().out)
    (moved,) = page["moved"]
    assert (moved["first_channel"], moved["requests"], moved["compared"]) == ("routed", 4, 3)
    assert (moved["not_known"], moved["not_known_booked"]) == (1, "0.000004200000")
    assert (moved["failed_tries"], moved["retries"], moved["fallbacks"]) == (2, 1, 1)
    assert (moved["booked"], moved["on_route"]) == ("0.000637200000", "0.001350000000")
    assert (moved["price_saved"], moved["failed_cost"], moved["saved"]) == ("0.000720000000", "0.000007200000", "0.000712800000")
    assert (moved["added_ms"], moved["p50_ms"], moved["route_p50_ms"]) == (3000, 3000, 3000)
    assert home.ledger_file.read_bytes() == before
    # nothing of the model goes to a pool: nothing is compared, and of that nothing no sum is known
    assert run(["whatif", "--period", "2026-10", "--route", "pool", "--home", str(home.root)]) == 0
    assert "booked unknown, on the route pool unknown, saved by not taking it unknown" in capsys.readouterr().out
    assert "channels" not in page


def test_what_is_not_known_is_no_saving(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each reply has 1000 + 500 tokens, on routed 0.00003 + 0.00006 = 0.00009 where it has a price.

    known    routed, list price 0.00045: 0.00036 saved
    plain    routed, 0.00009 and no list price: nobody knows what it saved
    mystery  routed without any price; the other rate file has one, but against what was booked nothing is compared
    dark     official without any price: nothing is known there at all
    """
    tried = {
        "known": ("openai/gpt-4o-mini", "routed"),
        "plain": ("plain", "routed"),
        "mystery": ("mystery", "routed"),
        "dark": ("mystery", "official"),
    }
    records: list[Record] = []
    for n, (name, (model, channel)) in enumerate(tried.items()):
        at = NOON + n * 600 * SECOND
        records += [request(name, at, match_sha256=f"{name:m<64}"[:64]), attempt(name, 1, at, channel=channel, sent_model=model)]
        records += [response(name, 1, at + SECOND, usage=usage(1000, 500), served_model=model)]
    priced = more_rates("routed plain input 0.03", "routed plain output 0.12")
    built(home, records, rates=priced)
    other = tmp_path / "other.csv"
    other.write_text(more_rates(*(f"routed {model} {price}" for model in ("plain", "mystery") for price in ("input 0.03", "output 0.12"))))
    command = ["whatif", "--period", "2026-10", "--rates", str(other), "--home", str(home.root)]
    assert run([*command, "--json"]) == 0
    channels = {row["channel"]: row for row in plain_json.loads(capsys.readouterr().out)["channels"]}
    routed, official = channels["routed"], channels["official"]
    assert (routed["booked"], routed["booked_unknown"], routed["failed_cost"]) == ("0.000180000000", 1, "0.000000000000")
    assert (routed["list_price"], routed["saved"], routed["not_compared"]) == ("0.000450000000", "0.000360000000", 2)
    assert (routed["what_if"], routed["what_if_unknown"], routed["difference"]) == ("0.000270000000", 0, "0.000000000000")
    assert [official[name] for name in ("booked", "list_price", "saved", "what_if", "difference")] == [None] * 5
    assert [official[name] for name in ("tries", "booked_unknown", "not_compared", "what_if_unknown")] == [1] * 4
    assert run(command) == 0
    told = capsys.readouterr().out
    assert "booked 0.000180000000, what if 0.000270000000, difference 0.000000000000\n" in told
    assert "leave out the tries that are not_compared" in told
    assert run(["whatif", "--period", "2026-10", "--route", "official", "--home", str(home.root), "--json"]) == 0
    (moved,) = plain_json.loads(capsys.readouterr().out)["moved"]
    assert (moved["compared"], moved["not_known"], moved["not_known_booked"]) == (2, 2, None)


def test_the_terms_of_the_other_route_hold_there(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """On official a factor of 2 and at least 2000 input tokens: 2000 x 0.0000003 + 500 x 0.0000012 = 0.0012; booked on routed 0.00009."""
    records: list[Record] = [
        request("r1"),
        attempt("r1", 1, NOON, channel="routed"),
        response("r1", 1, NOON + SECOND, usage=usage(1000, 500)),
    ]
    built(home, records, terms=terms("official * * multiplier 2", "official * input minimum 2000"))
    assert run(["whatif", "--period", "2026-10", "--route", "official", "--home", str(home.root), "--json"]) == 0
    (moved,) = plain_json.loads(capsys.readouterr().out)["moved"]
    assert (moved["booked"], moved["on_route"]) == ("0.000090000000", "0.001200000000")


@pytest.mark.parametrize(("option", "name"), [("--rates", "november.csv"), ("--policies", "lenient.csv")])
def test_a_file_that_cannot_be_used_is_named_as_it_was_given(option: str, name: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """The mistake is in the file of the command line, not in the book's."""
    built(home, [request("r1"), attempt("r1"), response("r1", usage=usage(10, 20))])
    (tmp_path / name).write_text("nonsense\n")
    assert run(["whatif", "--period", "2026-10", option, str(tmp_path / name), "--home", str(home.root)]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / name}:1 " in told
    assert "book/" not in told
