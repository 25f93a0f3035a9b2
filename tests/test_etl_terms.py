"""What a contract says beside its prices: multipliers, least quantities, steps and free allowances, each worked by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from etl.build import build
from etl.close import close
from etl.receipt import find
from etl.receipt_text import as_text
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record, UsageSeen
from tests.rawdata import (
    BOOK,
    DAY,
    NOON,
    SECOND,
    Archive,
    attempt,
    built,
    call,
    final_charges,
    more_rates,
    one,
    request,
    response,
    rows,
    terms,
    write_book,
)

SPOKEN = "official whisper second 0.0001 per=1"
SEARCHED = "official finder search_call 35 per=1000"


def heard(request_id: str, seconds: int, at: int = NOON) -> list[Record]:
    """A transcription that is billed by its seconds."""
    seen = (UsageSeen("usage", f'{{"type": "duration", "seconds": {seconds}}}', 1),)
    return [
        request(request_id, at, match_sha256=f"{request_id:m<64}"[:64], api_model="whisper", path="/v1/audio/transcriptions"),
        attempt(request_id, at=at, sent_model="whisper", url="https://official.test/v1/audio/transcriptions"),
        response(request_id, at=at + SECOND, usage=seen, served_model=None),
    ]


def found(request_id: str, searches: int, at: int = NOON, model: str = "finder") -> list[Record]:
    """A message that made web searches, and no tokens to speak of."""
    object_ = f'{{"input_tokens": 0, "output_tokens": 0, "server_tool_use": {{"web_search_requests": {searches}}}}}'
    return [
        request(request_id, at, match_sha256=f"{request_id:m<64}"[:64], api_model=model, path="/v1/messages"),
        attempt(request_id, at=at, sent_model=model, url="https://official.test/v1/messages"),
        response(request_id, at=at + SECOND, usage=(UsageSeen("usage", object_, 1),)),
    ]


def lines(home: Home, request_id: str) -> list[tuple[int, Decimal, str | None]]:
    """Quantity, unit price and, where a term made the line, that term."""
    query = f"""
        SELECT c.quantity, c.unit_price, t.term FROM charges c LEFT JOIN price_terms t ON c.rate_id = t.term_id
        WHERE request_id = '{request_id}' ORDER BY t.term NULLS FIRST
    """
    return [(row["quantity"], row["unit_price"], row["term"]) for row in rows(home, query)]


# ---- multipliers ----


def test_a_platform_ratio_that_changes_at_noon(home: Home) -> None:
    """new-api's rule: group ratio x price. 1000 x 0.00000015 + 500 x 0.0000006 = 0.00045; x 1.5 = 0.000675, from noon x 2 = 0.0009.

    The list price knows no ratio.
    """
    agreed = terms("official * * multiplier 1.5", "official * * multiplier 2 from=2026-10-10T12:00:00Z")
    built(home, [*call("before", NOON - 1), *call("after", NOON)], terms=agreed)
    assert final_charges(home) == {"before": Decimal("0.000675"), "after": Decimal("0.0009")}
    assert rows(home, "SELECT DISTINCT list_charge FROM ledger") == [{"list_charge": Decimal("0.00045")}]
    line = one(home, "FROM charges WHERE request_id = 'before' AND meter = 'input'")
    assert (line["unit_price"], line["amount"]) == (Decimal("0.000000225"), Decimal("0.000225"))
    assert one(home, f"SELECT multiplier FROM price_terms WHERE term_id = '{line['multiplier_id']}'") == {"multiplier": Decimal("1.5")}
    assert one(home, f"SELECT unit_price FROM model_prices WHERE rate_id = '{line['rate_id']}'") == {"unit_price": Decimal("0.00000015")}
    assert one(home, "SELECT input_price_per_mtok AS price FROM ledger WHERE request_id = 'before'") == {"price": Decimal("0.225")}


def test_the_most_specific_multiplier_wins(home: Home) -> None:
    """A named channel beats a named model, that the nearer meter, and that none. 1000 input tokens at 1 a million, times 2 to 7."""
    rates = more_rates(*(f"* {model} {meter} 1" for model in ("plain", "named", "other") for meter in ("input", "cached_input", "output")))
    agreed = terms(
        "* * * multiplier 2",
        "* * input multiplier 3",
        "* named * multiplier 4",
        "* named cached_input multiplier 5",
        "official other * multiplier 6",
        "official other output multiplier 7",
    )
    cached = {"prompt_tokens_details": {"cached_tokens": 400}}
    records: list[Record] = []
    for model in ("plain", "named", "other"):
        records += [
            *call(model, NOON, 1000, 100, model)[:2],
            response(model, usage=(UsageSeen("usage", _usage(1000, 100, cached), 1),)),
        ]
    built(home, records, rates=rates, terms=agreed)
    assert final_charges(home) == {
        "plain": Decimal("0.0032"),  # 600 x 3 + 400 x 3 (cached lies inside input) + 100 x 2
        "named": Decimal("0.0048"),  # 600 x 4 + 400 x 5 + 100 x 4
        "other": Decimal("0.0067"),  # 600 x 6 + 400 x 6 + 100 x 7
    }


def _usage(prompt: int, completion: int, more: dict[str, dict[str, int]]) -> str:
    cached = more["prompt_tokens_details"]["cached_tokens"]
    return f'{{"prompt_tokens": {prompt}, "completion_tokens": {completion}, "prompt_tokens_details": {{"cached_tokens": {cached}}}}}'


# ---- minimum and step ----


@pytest.mark.parametrize(
    ("seconds", "agreed", "billed"),
    [
        (3, ["minimum 10"], [(3, None), (7, "minimum")]),
        (10, ["minimum 10"], [(10, None)]),
        (61, ["minimum 10"], [(61, None)]),
        (61, ["step 60"], [(61, None), (59, "step")]),
        (60, ["step 60"], [(60, None)]),
        (3, ["minimum 10", "step 15"], [(3, None), (7, "minimum"), (5, "step")]),
    ],
)
def test_a_least_quantity_and_a_step(home: Home, seconds: int, agreed: list[str], billed: list[tuple[int, str | None]]) -> None:
    """Groq's page: audio is billed for 10 seconds at least. At OpenAI's 0.006 a minute, 0.0001 a second: 3 s cost 10 x 0.0001 = 0.001.

    Rounded up to the minute 61 s cost 120 x 0.0001 = 0.012; 3 s under both are 10, then 15: 0.0015.
    """
    built(home, heard("r1", seconds), rates=more_rates(SPOKEN), terms=terms(*(f"official whisper second {term}" for term in agreed)))
    price = Decimal("0.0001")
    assert lines(home, "r1") == [(quantity, price, term) for quantity, term in billed]
    assert final_charges(home) == {"r1": sum(quantity for quantity, _ in billed) * price}
    text = as_text(find(home, "r1"))
    told = {term for term in ("minimum", "step") if f": {term} " in text}
    assert told == {term for _, term in billed if term}


def test_each_try_has_its_own_least_quantity(home: Home) -> None:
    """Two tries of 3 s are 10 s each: 2 x 0.001."""
    first, second = heard("r1", 3), heard("r1", 3, NOON + SECOND)
    again = attempt("r1", 2, NOON + SECOND, sent_model="whisper")
    done = response("r1", 2, NOON + 2 * SECOND, usage=second[2].usage)  # type: ignore[union-attr]
    broken = response("r1", 1, usage=first[2].usage, ending="upstream_truncated", terminal=None)  # type: ignore[union-attr]
    agreed = terms("official whisper second minimum 10")
    built(home, [first[0], first[1], broken, again, done], rates=more_rates(SPOKEN), terms=agreed)
    assert final_charges(home) == {"r1": Decimal("0.002")}


# ---- allowances ----


def test_the_first_of_each_day_are_free_in_the_vendors_zone(home: Home) -> None:
    """Google's page: 1,500 grounded prompts a day are free, then $35 for 1,000. Its day begins at midnight Pacific, 07:00Z in October.

    1000 + 400 + 300 on one day: the third has 100 free and pays 200 x 0.035 = 7; a microsecond later the next day has begun.
    """
    midnight = parse_instant("2026-10-11T07:00:00Z")
    records = [
        *found("first", 1000, midnight - DAY),
        *found("second", 400, midnight - DAY + SECOND),
        *found("third", 300, midnight - 1),
        *found("fourth", 300, midnight),
    ]
    zone = BOOK["channels.toml"].replace("default = true", 'default = true\ntimezone = "America/Los_Angeles"')
    built(home, records, rates=more_rates(SEARCHED), channels=zone, terms=terms("official finder search_call allowance_day 1500"))
    assert final_charges(home) == {"first": 0, "second": 0, "third": 7, "fourth": 0}
    assert lines(home, "third") == [(200, Decimal("0.035"), None), (100, Decimal(0), "allowance_day")]
    used = rows(home, "SELECT span, used_before, quantity, free_quantity FROM allowance_use ORDER BY used_at")
    assert [tuple(row.values()) for row in used] == [
        ("2026-10-10", 0, 1000, 1000),
        ("2026-10-10", 1000, 400, 400),
        ("2026-10-10", 1400, 300, 100),
        ("2026-10-11", 0, 300, 300),
    ]
    # what is free still has its worth at list price
    assert one(home, "SELECT list_charge FROM ledger WHERE request_id = 'first'") == {"list_charge": Decimal(35)}


def test_a_month_is_shared_by_a_row_or_by_a_pool(home: Home) -> None:
    """One row for any model is one allowance; two rows with one pool are one too. At one instant the smaller id goes first.

    100 free, 60 + 60: the second pays 20 x 0.035 = 0.7.
    """
    rates = more_rates(*(f"official {model} search_call 35 per=1000" for model in ("a", "b", "c", "d")))
    agreed = terms(
        "official a search_call allowance_month 100 pool=small",
        "official b search_call allowance_month 100 pool=small",
        "official * search_call allowance_month 100",
    )
    records = [record for model in "dcba" for record in found(f"r-{model}", 60, NOON, model)]
    built(home, records, rates=rates, terms=agreed)
    assert final_charges(home) == {"r-a": 0, "r-b": Decimal("0.7"), "r-c": 0, "r-d": Decimal("0.7")}


def test_an_allowance_counts_what_is_billed_and_needs_no_price(home: Home) -> None:
    """3 s are billed as 10 and then as 15: of an allowance of 20 the first takes 15, and the second pays 10 x 0.0001 = 0.001.

    A search without a price is free as long as the allowance lasts, and unpriced beyond it.
    """
    agreed = terms(
        *(f"official whisper second {term}" for term in ("minimum 10", "step 15", "allowance_month 20")),
        "official lost search_call allowance_day 5",
    )
    records = [
        *heard("one", 3),
        *heard("two", 3, NOON + SECOND),
        *found("inside", 5, NOON, "lost"),
        *found("beyond", 1, NOON + 1, "lost"),
    ]
    built(home, records, rates=more_rates(SPOKEN), terms=agreed)
    assert final_charges(home) == {"one": 0, "two": Decimal("0.001"), "inside": 0, "beyond": None}
    price = Decimal("0.0001")
    assert lines(home, "two") == [(5, Decimal(0), "allowance_month"), (5, price, "minimum"), (5, price, "step")]
    assert rows(home, "SELECT request_id, quantity FROM unpriced") == [{"request_id": "beyond", "quantity": 1}]


def test_what_a_closed_month_took_stays_taken(home: Home) -> None:
    """October's 100 are sealed as used 80 and 20; a search that comes late for October, earlier than both, finds none left.

    It pays 50 x 0.035 = 1.75 in November, in the preview as in the build, and November's own allowance is whole.
    """
    write_book(home, rates=more_rates(SEARCHED), terms=terms("official finder search_call allowance_month 100"))
    archive = Archive(home)
    archive.seal([*found("first", 80, NOON), *found("second", 80, NOON + DAY)])
    assert close(home, parse_instant("2026-11-02T06:00:00Z")).closed == ("2026-10",)
    sealed = rows(home, "FROM allowance_use ORDER BY used_at")
    november = parse_instant("2026-11-05T00:00:00Z")
    archive.seal([*found("late", 50, NOON - DAY), *found("new", 50, november)], writer="w2")
    assert find(home, "late").facts["final_charge"] == Decimal("1.75")
    build(home)
    assert final_charges(home) == {"first": 0, "second": Decimal("2.1"), "late": Decimal("1.75"), "new": 0}
    assert rows(home, "FROM allowance_use WHERE request_id IN ('first', 'second') ORDER BY used_at") == sealed
    assert one(home, "SELECT used_before, free_quantity FROM allowance_use WHERE request_id = 'late'") == {
        "used_before": 160,
        "free_quantity": 0,
    }


def test_a_preview_counts_what_others_used(home: Home) -> None:
    """Before the next build a search of a second ago finds what the published ones left: 100 - 80, and pays 30 x 0.035 = 1.05."""
    write_book(home, rates=more_rates(SEARCHED), terms=terms("official finder search_call allowance_month 100"))
    archive = Archive(home)
    archive.seal(found("first", 80, NOON))
    build(home)
    archive.seal(found("second", 50, NOON + SECOND), writer="w2")
    receipt = find(home, "second")
    assert (receipt.published, receipt.facts["final_charge"]) == (False, Decimal("1.05"))
    build(home)
    assert find(home, "second").facts["final_charge"] == Decimal("1.05")
