"""terms.csv and fx.csv: what is read, and what is refused by file, line and cure."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from schemas.book import load_book
from schemas.bookfile import BookError
from schemas.home import Home
from tests.rawdata import FX, more_rates, terms, write_book

SINCE = "2026-01-01T00:00:00Z,,test,"


def problems(folder: Path, **said: str) -> list[str]:
    home = Home(folder)
    write_book(home, **said)
    try:
        load_book(home.book)
    except BookError as error:
        return [str(problem) for problem in error.problems]
    return []


# terms.csv: the row, the place that must be named, and words of what and cure.
REFUSED = [
    ("elsewhere * * multiplier 1", "terms.csv:2 channel 'elsewhere'", "no such channel"),
    ("official * inputs multiplier 1", "terms.csv:2 meter 'inputs'", "did you mean 'input'"),
    ("official * rounding multiplier 1", "terms.csv:2 meter 'rounding'", "no such meter"),
    ("official * * multiply 1", "terms.csv:2 term 'multiply'", "did you mean 'multiplier'"),
    ("official * * multiplier 1.5e0", "terms.csv:2 value '1.5e0'", "digits with at most one point"),
    ("official * * multiplier 0.0000000000001", "terms.csv:2 value", "use fewer decimals"),
    ("official * second minimum 0.5", "terms.csv:2 value '0.5'", "not a whole number of units"),
    ("official * second step 0", "terms.csv:2 value '0'", "not a whole number of units"),
    ("official * * minimum 10", "terms.csv:2 meter '*'", "name the meter"),
    ("* * search_call allowance_day 10", "terms.csv:2 channel '*'", "name the channel"),
    ("official * second step 60 pool=p", "terms.csv:2 pool 'p'", "a step is not shared"),
]


@pytest.mark.parametrize(("row", "place", "words"), REFUSED, ids=[row for row, _, _ in REFUSED])
def test_a_term_that_cannot_be_is_refused(tmp_path: Path, row: str, place: str, words: str) -> None:
    """One row, one error, which begins with its place and says what to write instead."""
    (said,) = problems(tmp_path, terms=terms(row))
    assert said.startswith(f"book/{place}")
    assert words in said


CLASHES = {
    "the same thing twice": (["official m * multiplier 1", "official m * multiplier 2"], "remove one of the two"),
    "an overlap": (
        ["official m * multiplier 1 to=2026-06-01T00:00:00Z", "official m * multiplier 2 from=2026-05-01T00:00:00Z"],
        "end line 2",
    ),
    "a day and a month": (
        ["official m second allowance_day 1", "official m second allowance_month 1"],
        "remove one of the two",
    ),
    "a pool of two sizes": (
        ["official a second allowance_day 1 pool=p", "official b second allowance_day 2 pool=p"],
        "make them agree",
    ),
    "a pool of two units": (
        ["official a second allowance_day 1 pool=p", "official b input allowance_day 1 pool=p"],
        "make them agree",
    ),
}


@pytest.mark.parametrize("case", CLASHES)
def test_terms_that_cannot_both_stand_are_refused_by_both_lines(tmp_path: Path, case: str) -> None:
    """Nothing has to be guessed: both lines are named."""
    told, cure = CLASHES[case]
    (said,) = problems(tmp_path, terms=terms(*told))
    assert said.startswith("book/terms.csv:3 ")
    assert "line 2" in said
    assert cure in said


def test_a_multiplier_that_no_unit_price_can_hold_is_refused_with_both_lines(tmp_path: Path) -> None:
    """0.0000000001 x 1.155 has 13 decimals. A multiplier of 1 for that model is the cure, and so is one that has ended by then."""
    rates = more_rates("official fine input 0.0001", "official fine output 1")
    line = rates.count("\n") - 1
    (said,) = problems(tmp_path / "refused", rates=rates, terms=terms("official * * multiplier 1.155"))
    assert said.startswith("book/terms.csv:2 value '1.155")
    assert f"book/rates.csv:{line}" in said
    assert "a multiplier of 1 for official fine input" in said
    assert not problems(tmp_path / "cured", rates=rates, terms=terms("official * * multiplier 1.155", "official fine input multiplier 1"))
    partly = terms("official * * multiplier 1.155", "official fine input multiplier 1 from=2026-06-01T00:00:00Z")
    assert len(problems(tmp_path / "partly", rates=rates, terms=partly)) == 1
    ended = terms("official * * multiplier 1.155 from=2025-01-01T00:00:00Z to=2026-01-01T00:00:00Z")
    assert not problems(tmp_path / "ended", rates=rates, terms=ended)
    assert not problems(tmp_path / "elsewhere", rates=rates, terms=terms("routed * * multiplier 1.155"))


COVERED = {
    "of every channel": ("official fine input 0.0001", "* * * multiplier 1.155", "official fine input multiplier 1"),
    "of one channel, for a price of every one": (
        "* fine input 0.0001",
        "official * * multiplier 1.155",
        "official fine input multiplier 1",
    ),
    "of one model, for a price of every one": (
        "official * input 0.0001",
        "official fine * multiplier 1.155",
        "official fine input multiplier 1",
    ),
    "by one of every meter": ("official fine input 0.0001", "official * * multiplier 1.155", "official fine * multiplier 1"),
    "until both end": (
        "official fine input 0.0001",
        "official * * multiplier 1.155 to=2026-06-01T00:00:00Z",
        "official fine input multiplier 1 to=2026-06-01T00:00:00Z",
    ),
}


@pytest.mark.parametrize("case", COVERED)
def test_a_multiplier_that_a_more_specific_one_outranks_may_be_any(tmp_path: Path, case: str) -> None:
    """Nothing is ever multiplied by it; without the other it is refused."""
    price, general, special = COVERED[case]
    rates = more_rates(price)
    assert not problems(tmp_path / "both", rates=rates, terms=terms(general, special))
    assert problems(tmp_path / "alone", rates=rates, terms=terms(general))


def test_each_price_that_a_multiplier_meets_is_looked_at(tmp_path: Path) -> None:
    """One that is outranked hides no other; another model's price is none of them."""
    rates = more_rates("official fine input 0.0001", "official finer input 0.0001")
    (said,) = problems(tmp_path / "next", rates=rates, terms=terms("official * * multiplier 1.155", "official fine input multiplier 1"))
    assert "a multiplier of 1 for official finer input" in said
    (said,) = problems(tmp_path / "own", rates=rates, terms=terms("official fine * multiplier 1.155"))
    assert "a multiplier of 1 for official fine input" in said
    assert not problems(tmp_path / "another", rates=rates, terms=terms("official other * multiplier 1.155"))


def test_a_pool_may_change_its_size(tmp_path: Path) -> None:
    """Rows of one pool must agree only where both are in force."""
    before, after = "official a second allowance_day 1 pool=p to=2026-06-01T00:00:00Z", "official b second allowance_day 2 pool=p from=2026-06-01T00:00:00Z"  # fmt: skip
    assert not problems(tmp_path, terms=terms(before, after))


def test_the_next_row_ends_the_one_before(tmp_path: Path) -> None:
    """An open end is the beginning of the next row for the same thing; a row's id is made of what it says."""
    home = Home(tmp_path)
    write_book(home, terms=terms("official m * multiplier 1.5", "official m * multiplier 2 from=2026-06-01T00:00:00Z"))
    first, second = load_book(home.book).terms
    assert (first.effective_to, second.effective_to) == (second.effective_from, None)
    assert (first.value, second.value) == (Decimal("1.5"), Decimal(2))
    assert first.term_id != second.term_id


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        ("USD,1,2026-01-01T00:00:00Z,,,", "fx.csv:2 currency 'USD'", "is the currency of the book"),
        ("EUR,0,2026-01-01T00:00:00Z,,,", "fx.csv:2 rate '0'", "worth nothing"),
        ("EUR,1.0000000000001,2026-01-01T00:00:00Z,,,", "fx.csv:2 rate", "use fewer decimals"),
        ("EUR,1000000,2026-01-01T00:00:00Z,,,", "fx.csv:2 rate '1000000'", "more than 18 digits"),
        (",1,2026-01-01T00:00:00Z,,,", "fx.csv:2 currency ''", "is empty"),
        ("EUR,1,2026-01-01,,,", "fx.csv:2 effective_from '2026-01-01'", "not an ISO 8601 instant"),
    ],
)
def test_an_exchange_rate_that_cannot_be_is_refused(tmp_path: Path, row: str, place: str, words: str) -> None:
    """One row, one error, which begins with its place."""
    (said,) = problems(tmp_path, fx=f"{row}\n")
    assert said.startswith(f"book/{place}")
    assert words in said


def test_a_price_needs_its_currencys_rate_and_must_stay_short(tmp_path: Path) -> None:
    """A currency that fx.csv does not know is refused where it is priced; so is a rate that makes a price of 19 digits."""
    rates = more_rates("official m image 100 per=1 currency=EUR")
    line = rates.count("\n")
    (said,) = problems(tmp_path / "unknown", rates=rates)
    assert said.startswith(f"book/rates.csv:{line} currency 'EUR': book.toml keeps the books in USD")
    assert "or add its rate to fx.csv" in said
    assert not problems(tmp_path / "known", rates=rates, fx=f"EUR,1.1,{SINCE}\n")
    (said,) = problems(tmp_path / "long", rates=rates, fx=f"EUR,10000,{SINCE}\n")
    assert said.startswith("book/fx.csv:2 rate '10000.000000000000': makes the price of book/rates.csv")
    (said,) = problems(tmp_path / "twice", fx=f"EUR,1.1,{SINCE}\nEUR,1.2,{SINCE}\n")
    assert said.startswith("book/fx.csv:3 ")
    assert "line 2" in said


def test_a_file_without_its_header_is_refused(tmp_path: Path) -> None:
    """The optional files are checked like the others once they are there."""
    home = Home(tmp_path)
    write_book(home)
    (home.book / "fx.csv").write_text(FX.replace("rate", "price"))
    with pytest.raises(BookError) as refused:
        load_book(home.book)
    assert "fx.csv:1" in str(refused.value)
