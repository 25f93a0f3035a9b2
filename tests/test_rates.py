"""One row of rates.csv and one use: whether it applies, by the definition that the SQL is held to; windows, days and ties by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.bookfile import Problem
from schemas.dated import uncovered
from schemas.instants import parse_instant
from schemas.meters import chain
from schemas.rates import COLUMNS, OPTIONAL, Rate, Use, applicable, minutes_of, rates_of, weekday_mask

HEADER = ",".join((*COLUMNS, *OPTIONAL)) + "\n"
MONDAY = parse_instant("2026-10-05T22:30:00Z")  # in Berlin 00:30 on Tuesday
USE = Use("a", "m", "input", MONDAY, "flex", 1000, "UTC", "eu", "chat", 0)


def read(*lines: str) -> tuple[tuple[Rate, ...], list[Problem]]:
    """Rows of `channel model meter price` and then `name=value` for what is not empty."""
    text = []
    for line in lines:
        channel, model, meter, price, *more = line.split()
        cells = dict.fromkeys((*COLUMNS, *OPTIONAL), "") | dict(zip(COLUMNS, (channel, model, meter, price, "1", "USD"), strict=False))
        cells |= {"effective_from": "2026-01-01T00:00:00Z"} | dict(part.split("=") for part in more)
        text.append(",".join(f'"{cell}"' for cell in cells.values()))
    problems: list[Problem] = []
    return rates_of("rates.csv", (HEADER + "\n".join(text)).encode(), frozenset({"a", "b"}), ("USD",), problems), problems


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("16:30-17:15", (990, 1034), (989, 1035)),
        ("22:00-06:10", (1320, 1439, 0, 369), (370, 1319)),
        ("23:00-24:00", (1380, 1439), (1379, 0)),
        (None, (0, 1439), ()),
    ],
)
def test_a_window_has_its_first_minute_and_not_its_last(hours: str | None, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    """Minutes of the local day, half-open, across midnight where the end comes first."""
    if hours:
        (rate,), problems = read(f"a m input 1 hours={hours}")
        assert problems == []
        found = rate.minutes
    else:
        found = minutes_of(None)
    assert found >= set(inside)
    assert not found & set(outside)


def test_days_are_bits_from_monday_on() -> None:
    """Spans may run over the end of the week; no day named is every day."""
    found = {days: read(f"a m input 1 weekdays={days}")[0][0].weekday_mask for days in ("mon", "sat-mon", "Tue,fri")}
    assert found == {"mon": 0b0000001, "sat-mon": 0b1100001, "Tue,fri": 0b0010010}
    assert weekday_mask(None) == 0b1111111


@pytest.mark.parametrize(
    ("row", "applies"),
    [
        ("a m input 1", True),
        ("* * input 1", True),
        ("b m input 1", False),
        ("a other input 1", False),
        ("a m output 1", False),
        ("a m input 1 book=list", False),
        ("a m input 1 service_tier=FLEX", True),
        ("a m input 1 service_tier=batch", False),
        ("a m input 1 region=EU", True),
        ("a m input 1 region=us", False),
        ("a m input 1 endpoint=chat", True),
        ("a m input 1 endpoint=/v1/chat", False),
        ("a m input 1 min_input_tokens=1000", True),
        ("a m input 1 min_input_tokens=1001", False),
        ("a m input 1 min_input_tokens=2 marginal=true", False),  # the first token of the prompt stands below it
        ("a m input 1 hours=22:30-22:31", True),
        ("a m input 1 hours=22:31-23:00", False),
        ("a m input 1 weekdays=mon", True),
        ("a m input 1 weekdays=tue", False),
        ("a m input 1 effective_from=2026-10-05T22:30:00Z", True),
        ("a m input 1 effective_from=2026-10-05T22:30:00.000001Z", False),
        ("a m input 1 effective_to=2026-10-05T22:30:00Z", False),
    ],
)
def test_a_row_applies_where_all_that_it_names_holds(row: str, applies: bool) -> None:
    """At 22:30 on a Monday, 1000 tokens in tier flex, region eu, endpoint chat."""
    rates, problems = read(row)
    assert problems == []
    assert bool(applicable(rates, "charge", USE)) == applies
    upper = replace(USE, service_tier="Flex", region="EU")  # as the vendor writes it
    assert bool(applicable(rates, "charge", upper)) == applies


def test_what_is_not_known_meets_no_condition() -> None:
    """A use without tier, region and endpoint has the row that names none."""
    rates, _ = read("a m input 1", "a m input 2 service_tier=flex", "a m input 3 region=eu", "a m input 4 endpoint=chat")
    unknown = replace(USE, service_tier=None, region=None, endpoint=None)
    assert [rate.price for rate in applicable(rates, "charge", unknown)] == [1]


def test_the_vendors_clock_decides_the_hour_and_the_day() -> None:
    """The same instant is Monday 22:30 in UTC and Tuesday 00:30 in Berlin; a marginal row counts the tokens before."""
    rates, _ = read("a m input 1", "a m input 2 hours=00:30-00:31 weekdays=tue", "a m output 3")
    assert [rate.price for rate in applicable(rates, "charge", USE)] == [1]
    assert [rate.price for rate in applicable(rates, "charge", replace(USE, zone="Europe/Berlin"))] == [2, 1]
    above, _ = read("a m input 1 min_input_tokens=2 marginal=true")
    assert applicable(above, "charge", replace(USE, position=1))


@pytest.mark.parametrize(
    ("rows", "tie"),
    [
        (("a m input 1 service_tier=flex", "a m input 2 region=eu"), "(service_tier=flex), and neither"),
        (("a m input 1 service_tier=flex", "a m input 2 region=eu", "a m input 3 service_tier=flex region=eu"), ""),
        (
            ("a m input 1 service_tier=flex", "a m input 2 region=eu", "a m input 3 service_tier=batch region=eu"),
            "(service_tier=flex), and",
        ),
        (("a m input 1 service_tier=flex", "a m input 2 service_tier=batch"), ""),
        (("a m input 1 hours=08:00-12:00", "a m input 2 weekdays=mon"), "(hours=08:00-12:00), and neither"),
        (("a m input 1 hours=08:00-12:00", "a m input 2 hours=12:00-14:00"), ""),
        (("a m input 1 hours=08:00-12:01", "a m input 2 hours=12:00-14:00"), "(hours=08:00-12:01), and neither"),
        (("a m input 1 weekdays=mon", "a m input 2 weekdays=tue"), ""),
        (("a m input 1 min_input_tokens=10", "a m input 2 min_input_tokens=20"), ""),
        (("a m input 1 min_input_tokens=10", "a m input 2 region=eu"), "(min_input_tokens=10), and neither"),
        (
            (
                "a m input 1 service_tier=flex effective_to=2026-02-01T00:00:00Z",
                "a m input 2 region=eu effective_from=2026-02-01T00:00:00Z",
            ),
            "",
        ),
        (
            (
                "a m input 1 service_tier=flex",
                "a m input 2 region=eu",
                "a m input 3 service_tier=flex region=eu effective_from=2026-02-01T00:00:00Z",
            ),
            "(service_tier=flex), and neither",
        ),
        (
            (
                "a m input 1 service_tier=flex effective_to=2026-02-01T00:00:00Z",
                "a m input 2 region=eu effective_to=2026-03-01T00:00:00Z",
                "a m input 3 service_tier=flex region=eu effective_to=2026-02-01T00:00:00Z",
            ),
            "",
        ),
        (
            ("a m input 1 service_tier=flex", "a m input 2 region=eu", "a m input 3 service_tier=flex region=eu min_input_tokens=1"),
            "(service_tier=flex), and neither",
        ),
        (
            (
                "a m input 1 service_tier=flex hours=08:00-12:00",
                "a m input 2 region=eu hours=10:00-14:00",
                "a m input 3 service_tier=flex region=eu hours=10:00-12:00",
            ),
            "",
        ),
        (
            (
                "a m input 1 service_tier=flex weekdays=mon-wed",
                "a m input 2 region=eu weekdays=wed-fri",
                "a m input 3 service_tier=flex region=eu weekdays=wed",
            ),
            "",
        ),
        (
            (
                "a m input 1 service_tier=flex weekdays=mon-wed",
                "a m input 2 region=eu weekdays=wed-fri",
                "a m input 3 service_tier=flex region=eu weekdays=tue",
            ),
            "(service_tier=flex weekdays=mon,tue,wed), and neither",
        ),
    ],
)
def test_a_tie_is_refused_unless_something_settles_it(rows: tuple[str, ...], tie: str) -> None:
    """Two rows that can apply at once, level in what they name: told with both lines, but for what a further row covers whole."""
    _, problems = read(*rows)
    assert len(problems) == bool(tie)
    for problem in problems:
        assert (problem.line, problem.field) == (3, "conditions")
        assert f"can apply together with line 2 {tie}" in problem.what
        assert problem.cure == "add a row that names both conditions, or make lines 2 and 3 exclude each other"


def test_a_row_that_has_ended_hides_no_tie_between_later_ones() -> None:
    """Lines 3 and 4 are told, though line 2 ended before either began."""
    later = "effective_from=2026-02-01T00:00:00Z"
    _, (problem,) = read("a m input 1 service_tier=flex effective_to=2026-02-01T00:00:00Z", f"a m input 2 region=eu {later}", f"a m input 3 endpoint=chat {later}")  # fmt: skip
    assert (problem.line, "line 3 (region=eu)" in problem.what) == (4, True)


def test_where_no_row_is_in_force() -> None:
    """The first stretch that nothing covers, half-open; it ends where a later row begins, or where the question does."""
    (first, second), _ = read("a m input 1 effective_to=2026-02-01T00:00:00Z", "a n input 1 effective_from=2026-03-01T00:00:00Z effective_to=2026-04-01T00:00:00Z")  # fmt: skip
    january, february, march, april = (parse_instant(f"2026-0{month}-01T00:00:00Z") for month in (1, 2, 3, 4))
    assert uncovered((first, second), january, february) is None
    assert uncovered((first, second), january, february + 1) == (february, february + 1)
    assert uncovered((second, first), january, april) == (february, march)
    assert uncovered((first, second), january, None) == (february, march)
    assert uncovered((first,), january, march) == (february, march)
    assert uncovered((), january, march) == (january, march)
    assert uncovered((first,), january, None) == (february, None)


def test_whose_price_a_meter_has() -> None:
    """Its own, those that stand before the outer one, then outwards, each once."""
    assert chain("cached_image_input") == ("cached_image_input", "image_input", "cached_input", "input")
    assert chain("cache_write_1h") == ("cache_write_1h", "cache_write_5m", "input")
    assert chain("request") == ("request",)
