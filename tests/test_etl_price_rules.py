"""Each rule of the rate table with one example worked by hand, where tests/test_etl_prices.py has none.

The prices are in dollars a million tokens; what a vendor's page says is quoted where a case is taken from one.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import orjson
import pytest

from schemas.bookfile import BookError
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.meters import METERS
from schemas.records import Record, UsageSeen
from tests.rawdata import (
    BOOK,
    DAY,
    HOUR,
    NOON,
    SECOND,
    attempt,
    built,
    call,
    final_charges,
    json,
    more_rates,
    one,
    request,
    response,
    rows,
    usage,
)


def _zone(zone: str) -> str:
    return BOOK["channels.toml"].replace("default = true", f'default = true\ntimezone = "{zone}"')


def _asked(request_id: str, at: int, model: str, seen: Any, **facts: Any) -> list[Record]:
    """One call with its usage, the tier it asked for and the one it got."""
    asked = facts.pop("asked", None)
    body_facts = None if asked is None else json({"service_tier": asked})
    return [
        request(request_id, at, match_sha256=f"{request_id:m<64}"[:64], api_model=model, body_facts=body_facts),
        attempt(request_id, at=at, sent_model=model),
        response(request_id, at=at + SECOND, usage=seen, **facts),
    ]


def _at(instants: Iterable[str], model: str) -> list[Record]:
    """A call of 1000 prompt tokens at each instant, named after it."""
    return [record for text in instants for record in call(text, parse_instant(text), completion=0, model=model)]


# ---- context length ----


def test_a_cliff_counts_cached_tokens_and_prices_every_meter(home: Home) -> None:
    """OpenAI's page: above 272K input tokens, 2x input and 1.5x output for the whole session ($2/$0.10/$10 become $4/$0.20/$15).

    At 272,000, of which 200,000 cached: 72,000 x 0.000002 + 200,000 x 0.0000001 + 1,000 x 0.00001 = 0.144 + 0.02 + 0.01 = 0.174.
    One more, uncached: 72,001 x 0.000004 + 200,000 x 0.0000002 + 1,000 x 0.000015 = 0.288004 + 0.04 + 0.015 = 0.343004.
    """
    rates = more_rates(
        *("official long input 2", "official long cached_input 0.1", "official long output 10"),
        *("official long input 4 min=272001", "official long cached_input 0.2 min=272001", "official long output 15 min=272001"),
    )
    cached = {"prompt_tokens_details": {"cached_tokens": 200_000}}
    records = [
        *_asked("below", NOON, "long", usage(272_000, 1_000, **cached)),
        *_asked("above", NOON + SECOND, "long", usage(272_001, 1_000, **cached)),
    ]
    built(home, records, rates=rates)
    assert final_charges(home) == {"below": Decimal("0.174"), "above": Decimal("0.343004")}


def test_the_highest_threshold_that_is_reached_wins(home: Home) -> None:
    """Above 128K twice, above 256K four times the price: 1000 = 0.001; 128,001 x 0.000002 = 0.256002; 256,001 x 0.000004 = 1.024004."""
    rates = more_rates("official steps input 1", "official steps input 2 min=128001", "official steps input 4 min=256001")
    records = [
        record for n, prompt in enumerate((1000, 128_001, 256_001)) for record in call(str(prompt), NOON + n, prompt, 0, model="steps")
    ]
    built(home, records, rates=rates)
    assert final_charges(home) == {"1000": Decimal("0.001"), "128001": Decimal("0.256002"), "256001": Decimal("1.024004")}


def test_a_limit_that_is_included_is_written_as_it_is(home: Home) -> None:
    """A vendor that says "128,000 or more" has 128000 in the row: 127,999 x 0.000001 = 0.127999, and 128,000 x 0.000002 = 0.256."""
    rates = more_rates("official steps input 1", "official steps input 2 min=128000")
    built(home, [*call("under", NOON, 127_999, 0, model="steps"), *call("at", NOON + 1, 128_000, 0, model="steps")], rates=rates)
    assert final_charges(home) == {"under": Decimal("0.127999"), "at": Decimal("0.256")}


# ---- service tiers ----


def test_the_tier_that_served_is_charged_and_not_the_one_asked_for(home: Home) -> None:
    """1000 tokens: ordinary 0.001, flex 0.0005, priority 0.002. What the reply says stands; where it says nothing, what was asked."""
    rates = more_rates("official tiers input 1", "official tiers input 0.5 tier=flex", "official tiers input 2 tier=priority")
    cases: dict[str, tuple[str | None, str | None, str]] = {
        # asked for, returned, charge
        "downgraded": ("priority", "default", "0.001"),
        "as-asked": ("priority", "priority", "0.002"),
        "unasked": (None, "flex", "0.0005"),
        "untold": ("flex", None, "0.0005"),
        "auto": ("auto", "priority", "0.002"),
        "ordinary": (None, None, "0.001"),
        "no-row": ("scale", "scale", "0.001"),  # a tier without a row of its own has the ordinary price
    }
    records = [
        record
        for n, (name, (asked, returned, _)) in enumerate(cases.items())
        for record in _asked(name, NOON + n, "tiers", usage(1000, 0), asked=asked, service_tier=returned)
    ]
    built(home, records, rates=rates)
    assert final_charges(home) == {name: Decimal(charge) for name, (_, _, charge) in cases.items()}


# ---- hours and days ----


def test_hours_of_a_night_in_which_the_clock_goes_back(home: Home) -> None:
    """Berlin, 25 October 2026: 22:00 is 20:00Z (UTC+2) and 06:00 is 05:00Z (UTC+1), so this night has nine hours."""
    day, night = Decimal("0.001"), Decimal("0.00025")
    cases = {
        "2026-10-24T19:59:59.999999Z": day,
        "2026-10-24T20:00:00Z": night,
        "2026-10-25T00:30:00Z": night,  # 02:30 for the first time
        "2026-10-25T01:30:00Z": night,  # 02:30 for the second
        "2026-10-25T04:00:00Z": night,  # 05:00; with the summer's offset it would be day
        "2026-10-25T04:59:59.999999Z": night,
        "2026-10-25T05:00:00Z": day,
    }
    built(home, _at(cases, "nightly"), channels=_zone("Europe/Berlin"))
    assert final_charges(home) == cases


def test_hours_of_a_night_in_which_the_clock_goes_forward(home: Home) -> None:
    """Berlin, 29 March 2026: 22:00 is 21:00Z (UTC+1) and 06:00 is 04:00Z (UTC+2), so this night has seven hours."""
    day, night = Decimal("0.001"), Decimal("0.00025")
    cases = {
        "2026-03-28T20:59:59.999999Z": day,
        "2026-03-28T21:00:00Z": night,
        "2026-03-29T03:59:59.999999Z": night,
        "2026-03-29T04:00:00Z": day,
    }
    built(home, _at(cases, "nightly"), channels=_zone("Europe/Berlin"))
    assert final_charges(home) == cases


def test_days_are_the_vendors_days_and_each_instant_has_its_own(home: Home) -> None:
    """Double at 23:00-01:00 of working days, in Beijing: Friday's window ends at midnight, for Saturday is no working day.

    10 October 2026 is a Saturday. Beijing is UTC+8: Friday 23:00 there is 15:00Z, midnight is 16:00Z. 1000 x 0.000002, else 0.001.
    """
    peak, plain = Decimal("0.002"), Decimal("0.001")
    cases = {
        "2026-10-09T14:59:59.999999Z": plain,
        "2026-10-09T15:00:00Z": peak,
        "2026-10-09T15:59:59.999999Z": peak,
        "2026-10-09T16:00:00Z": plain,  # Saturday there, Friday here
        "2026-10-11T15:30:00Z": plain,  # Sunday 23:30
        "2026-10-11T16:30:00Z": peak,  # Monday 00:30, in the part of the window after midnight; Sunday here
        "2026-10-11T17:00:00Z": plain,
    }
    rates = more_rates("official peak input 1", "official peak input 2 hours=23:00-01:00 days=mon-fri")
    built(home, _at(cases, "peak"), rates=rates, channels=_zone("Asia/Shanghai"))
    assert final_charges(home) == cases


def test_a_zone_with_a_half_hour(home: Home) -> None:
    """Kolkata is UTC+5:30: 22:00 there is 16:30Z."""
    cases = {"2026-10-10T16:29:59.999999Z": Decimal("0.001"), "2026-10-10T16:30:00Z": Decimal("0.00025")}
    built(home, _at(cases, "nightly"), channels=_zone("Asia/Kolkata"))
    assert final_charges(home) == cases


# ---- when ----


def test_a_call_has_the_price_of_its_beginning_though_it_ends_after_the_change(home: Home) -> None:
    """Begun a microsecond before noon and answered two seconds later: 1000 x 0.000001, the morning's price, and no fee a call."""
    records: list[Record] = [
        request("r1", NOON - 1, api_model="dated"),
        attempt("r1", at=NOON + SECOND, sent_model="dated"),  # it was sent after the change
        response("r1", at=NOON + 2 * SECOND, usage=usage(1000, 0)),
    ]
    built(home, records)
    assert one(home, "SELECT final_charge FROM ledger") == {"final_charge": Decimal("0.001")}


def test_a_multiplier_that_changes_twice_on_one_day(home: Home) -> None:
    """A platform sells at 1.0, from 08:00Z at 1.5 and from 20:00Z at 0.8 times a dollar: 0.001, 0.0015 and 0.0008 for 1000 tokens."""
    rates = more_rates(
        "official moody input 1",
        "official moody input 1.5 from=2026-10-10T08:00:00Z",
        "official moody input 0.8 from=2026-10-10T20:00:00Z",
    )
    cases = {
        "2026-10-10T07:59:59.999999Z": Decimal("0.001"),
        "2026-10-10T08:00:00Z": Decimal("0.0015"),
        "2026-10-10T19:59:59.999999Z": Decimal("0.0015"),
        "2026-10-10T20:00:00Z": Decimal("0.0008"),
    }
    built(home, _at(cases, "moody"), rates=rates)
    assert final_charges(home) == cases


def test_a_gap_between_two_prices_is_no_price(home: Home) -> None:
    """One row ends at noon and the next begins an hour later: what begins in between has no charge, and the month says why."""
    rates = more_rates("official gappy input 1 to=2026-10-10T12:00:00Z", "official gappy input 2 from=2026-10-10T13:00:00Z")
    calls = {"before": NOON - 1, "first": NOON, "last": NOON + HOUR - 1, "after": NOON + HOUR}
    built(home, [record for name, at in calls.items() for record in call(name, at, completion=0, model="gappy")], rates=rates)
    assert final_charges(home) == {"before": Decimal("0.001"), "first": None, "last": None, "after": Decimal("0.002")}
    assert rows(home, "SELECT DISTINCT reason FROM unpriced") == [{"reason": "no price for input of gappy on official"}]


def test_29_february_is_a_day_of_its_own(home: Home) -> None:
    """A price for the leap day only: 1000 x 0.000003 on it, 0.000001 a token a microsecond before and after."""
    rates = more_rates(
        "official leap input 1 from=2028-01-01T00:00:00Z to=2028-02-29T00:00:00Z",
        "official leap input 3 from=2028-02-29T00:00:00Z to=2028-03-01T00:00:00Z",
        "official leap input 1 from=2028-03-01T00:00:00Z",
    )
    cases = {
        "2028-02-28T23:59:59.999999Z": Decimal("0.001"),
        "2028-02-29T00:00:00Z": Decimal("0.003"),
        "2028-02-29T23:59:59.999999Z": Decimal("0.003"),
        "2028-03-01T00:00:00Z": Decimal("0.001"),
    }
    built(home, _at(cases, "leap"), rates=rates)
    assert final_charges(home) == cases
    assert rows(home, "SELECT period, count(*) AS n FROM ledger GROUP BY period ORDER BY period") == [
        {"period": "2028-02", "n": 3},
        {"period": "2028-03", "n": 1},
    ]


# ---- region and endpoint ----


def test_a_region_is_the_one_that_answered_else_that_of_the_host_else_the_one_asked_for(home: Home) -> None:
    """Anthropic's page: US-only inference is 1.1 x every token price ($5 and $25 become $5.50 and $27.50); OpenAI's regional hosts
    likewise. Of 1000 input tokens: ordinary 0.005, US 0.0055, EU 0.0060 (made up, to tell them apart).
    """
    rates = more_rates(
        *("official geo input 5", "official geo input 5.5 region=us", "official geo input 6 region=EU"),
    )
    anthropic, regional = "https://api.anthropic.com/v1/messages", "https://eu.api.openai.com/v1/chat/completions"
    # name: the host, asked for, returned; the charge and what the ledger says of it
    cases: dict[str, tuple[str, str | None, str | None, str, str | None]] = {
        "returned": (anthropic, None, "us", "0.0055", "us"),
        "asked, and told otherwise": (anthropic, "us", "global", "0.005", None),
        "asked, and not told": (anthropic, "us", None, "0.0055", "us"),
        "nowhere": (anthropic, None, None, "0.005", None),
        "not available": (anthropic, None, "not_available", "0.005", None),
        "by its host": (regional, None, None, "0.006", "eu"),
        "no row for it": (anthropic, None, "mars", "0.005", "mars"),
    }
    records: list[Record] = []
    for n, (name, (url, asked, told, _, _)) in enumerate(cases.items()):
        seen = usage(1000, 0, **({} if told is None else {"inference_geo": told}))
        records += [
            request(
                name, NOON + n, match_sha256=f"{n:064d}", api_model="geo", body_facts=json({"inference_geo": asked}) if asked else None
            ),
            attempt(name, at=NOON + n, sent_model="geo", url=url),
            response(name, at=NOON + SECOND + n, usage=seen),
        ]
    built(home, records, rates=rates)
    assert final_charges(home) == {name: Decimal(case[3]) for name, case in cases.items()}
    found = rows(home, "SELECT request_id, region FROM attempts")
    assert {row["request_id"]: row["region"] for row in found} == {name: case[4] for name, case in cases.items()}
    assert rows(home, "SELECT subject, rows FROM data_quality WHERE kind = 'assumed'") == [{"subject": "official region us", "rows": 1}]


def test_one_model_on_two_endpoints_has_two_prices(home: Home) -> None:
    """Through chat 1000 x 0.000001 = 0.001, through responses 1000 x 0.000003 = 0.003; at the tier flex of responses 0.0005."""
    rates = more_rates(
        *("official both input 1", "official both input 3 endpoint=responses", "official both input 0.5 endpoint=responses tier=flex"),
    )
    seen = (UsageSeen("usage", '{"input_tokens": 1000, "output_tokens": 0, "total_tokens": 1000}', 1),)
    records: list[Record] = [*call("chat", NOON, completion=0, model="both")]
    for name, tier in {"responses": None, "flex": "flex"}.items():
        records += [
            request(name, NOON + SECOND, match_sha256=f"{name:m<64}"[:64], api_model="both", path="/v1/responses"),
            attempt(name, at=NOON + SECOND, sent_model="both", url="https://official.test/v1/responses"),
            response(name, at=NOON + 2 * SECOND, usage=seen, service_tier=tier),
        ]
    built(home, records, rates=rates)
    assert final_charges(home) == {"chat": Decimal("0.001"), "responses": Decimal("0.003"), "flex": Decimal("0.0005")}


def test_an_endpoint_that_no_call_can_have_is_refused(home: Home) -> None:
    """A row that never applies would let another price count in silence."""
    with pytest.raises(BookError) as refused:
        built(home, call("r1"), rates=more_rates("official gpt-4o-mini input 3 endpoint=chat.completion"))
    assert "rates.csv:23 endpoint 'chat.completion': no such endpoint" in str(refused.value)
    assert "did you mean 'chat.completions'?" in str(refused.value)


# ---- marginal limits ----


def test_a_marginal_row_prices_only_the_tokens_above_its_limit(home: Home) -> None:
    """No vendor's page has one today. The first 1000 tokens at 2, the next 1000 at 1, the rest at 0.5 a million.

    2500 tokens: 1000 x 0.000002 + 1000 x 0.000001 + 500 x 0.0000005 = 0.002 + 0.001 + 0.00025 = 0.00325.
    """
    rates = more_rates(
        *("official steps input 2", "official steps input 1 min=1001 marginal=true", "official steps input 0.5 min=2001 marginal=true"),
    )
    sizes = {"at": 1000, "one-more": 1001, "far": 2500}
    built(home, [record for n, (name, size) in enumerate(sizes.items()) for record in call(name, NOON + n, size, 0, "steps")], rates=rates)
    assert final_charges(home) == {"at": Decimal("0.002"), "one-more": Decimal("0.002001"), "far": Decimal("0.00325")}
    found = rows(home, "SELECT quantity, unit_price FROM charges WHERE request_id = 'far' ORDER BY unit_price DESC")
    assert [(row["quantity"], row["unit_price"]) for row in found] == [
        (1000, Decimal("0.000002")),
        (1000, Decimal("0.000001")),
        (500, Decimal("0.0000005")),
    ]
    assert one(home, "SELECT input_price_per_mtok AS price FROM ledger WHERE request_id = 'far'") == {"price": Decimal(2)}


def test_cached_tokens_stand_at_the_beginning_of_the_prompt(home: Home) -> None:
    """1500 tokens, 1200 of them cached: the cache knows the first 1200, so 200 cached and all 300 others lie above 1000.

    1000 x 0.0000002 + 200 x 0.0000001 + 300 x 0.000001 = 0.0002 + 0.00002 + 0.0003 = 0.00052.
    """
    rates = more_rates(
        *("official steps input 2", "official steps input 1 min=1001 marginal=true"),
        *("official steps cached_input 0.2", "official steps cached_input 0.1 min=1001 marginal=true"),
    )
    built(home, _asked("r1", NOON, "steps", usage(1500, 0, prompt_tokens_details={"cached_tokens": 1200})), rates=rates)
    assert final_charges(home) == {"r1": Decimal("0.00052")}
    found = rows(home, "SELECT meter, quantity FROM charges ORDER BY meter, quantity")
    assert [(row["meter"], row["quantity"]) for row in found] == [("cached_input", 200), ("cached_input", 1000), ("input", 300)]


def test_a_limit_cannot_be_a_cliff_and_marginal_at_once(home: Home) -> None:
    """Both rows hold from 1001 tokens on, and nothing says which counts."""
    rates = more_rates("official steps input 2 min=1001", "official steps input 1 min=1001 marginal=true")
    with pytest.raises(BookError) as refused:
        built(home, call("r1"), rates=rates)
    assert "rates.csv:24" in str(refused.value)
    assert "line 23" in str(refused.value)


# ---- which row ----


def test_the_most_specific_row_wins(home: Home) -> None:
    """Prices 1, 2, 3 … by rank: a named channel beats a named model, a named model beats none, a condition beats none."""
    rates = more_rates(
        "* * input 1",
        "* named input 2",
        "official * input 3",
        "official named input 4",
        "official named input 5 tier=flex",
        "* elsewhere input 6 tier=flex",  # two conditions do not outweigh a channel's name
    )
    records = [
        *call("channel-and-model", NOON, completion=0, model="named"),
        *_asked("and-tier", NOON + 1, "named", usage(1000, 0), service_tier="flex"),
        *call("channel-only", NOON + 2, completion=0, model="other"),
        *_asked("channel-over-condition", NOON + 3, "elsewhere", usage(1000, 0), service_tier="flex"),
        request("model-only", NOON + 4, match_sha256="n" * 64),
        attempt("model-only", at=NOON + 4, channel="routed", sent_model="named"),
        response("model-only", at=NOON + SECOND, usage=usage(1000, 0)),
        request("neither", NOON + 5, match_sha256="o" * 64),
        attempt("neither", at=NOON + 5, channel="routed", sent_model="other"),
        response("neither", at=NOON + SECOND, usage=usage(1000, 0)),
    ]
    built(home, records, rates=rates)
    assert final_charges(home) == {
        "channel-and-model": Decimal("0.004"),
        "and-tier": Decimal("0.005"),
        "channel-only": Decimal("0.003"),
        "channel-over-condition": Decimal("0.003"),
        "model-only": Decimal("0.002"),
        "neither": Decimal("0.001"),
    }


def test_a_meters_own_price_beats_that_of_the_meter_around_it(home: Home) -> None:
    """A cached price for any channel and model, 0.1, is nearer to 400 cached tokens than this model's own input price, 2.

    600 x 0.000002 + 400 x 0.0000001 = 0.0012 + 0.00004 = 0.00124.
    """
    rates = more_rates("official mixed input 2", "* * cached_input 0.1")
    seen = usage(1000, 0, prompt_tokens_details={"cached_tokens": 400})
    built(home, _asked("r1", NOON, "mixed", seen), rates=rates)
    assert final_charges(home) == {"r1": Decimal("0.00124")}


def test_what_is_written_for_longer_has_the_price_of_what_is_written(home: Home) -> None:
    """A vendor with one price of writing to its cache, 1.25 beside 1: 100 x 0.000001 + (300 + 700 for an hour) x 0.00000125 = 0.00135."""
    rates = more_rates("official keeper input 1", "official keeper cache_write_5m 1.25", "official keeper output 5")
    written = {"cache_creation_input_tokens": 1000, "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 700}}
    seen = (UsageSeen("usage", orjson.dumps({"input_tokens": 100, "output_tokens": 0, **written}).decode(), 1),)
    asked = request("r1", NOON, path="/v1/messages", api_model="keeper")
    built(home, [asked, attempt("r1", sent_model="keeper"), response("r1", usage=seen)], rates=rates)
    assert final_charges(home) == {"r1": Decimal("0.00135")}


@pytest.mark.parametrize(("audio", "charge"), [(None, "0.00046"), ("3", "0.00182")])
def test_cached_audio_without_a_price_of_its_own(home: Home, audio: str | None, charge: str) -> None:
    """500 tokens of a prompt are audio, 400 of them cached, 200 are cached text, 300 neither; input is 1 and what is cached 0.1.

    Where audio costs what text costs, (100 + 300) x 0.000001 + (400 + 200) x 0.0000001 = 0.0004 + 0.00006 = 0.00046.
    Where audio is 3, what is cached of it is not guessed to be cheap: 300 x 0.000001 + 500 x 0.000003 + 200 x
    0.0000001 = 0.0003 + 0.0015 + 0.00002 = 0.00182.
    """
    rates = more_rates(
        *("official ear input 1", "official ear cached_input 0.1"), *([f"official ear audio_input {audio}"] if audio else [])
    )
    told = {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 600,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 500}, {"modality": "AUDIO", "tokenCount": 500}],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 200}, {"modality": "AUDIO", "tokenCount": 400}],
        "totalTokenCount": 1000,
    }
    seen = (UsageSeen("usageMetadata", orjson.dumps(told).decode(), 1),)
    asked = request("r1", NOON, path="/v1beta/models/ear:generateContent", api_model="ear")
    built(home, [asked, attempt("r1", sent_model="ear"), response("r1", usage=seen)], rates=rates)
    assert final_charges(home) == {"r1": Decimal(charge)}


def test_an_image_has_the_price_of_its_size_and_quality_else_of_its_size_else_of_any(home: Home) -> None:
    """DALL-E 3's page: 1024x1024 standard 0.04 and hd 0.08; 1024x1792 hd 0.12. Two of each: 0.08, 0.16 and 0.24.

    Where only 1792x1024 has a price, 0.08, it holds for every quality: 0.16. 512x512 has none and costs what any image does: 0.04.
    """
    prices = {
        "image": "0.02",
        "image_1024x1024": "0.04",
        "image_hd_1024x1024": "0.08",
        "image_hd_1024x1792": "0.12",
        "image_1792x1024": "0.08",
    }
    rates = more_rates(*(f"official painter {meter} {price} per=1" for meter, price in prices.items()))
    cases = {
        ("standard", "1024x1024"): "0.08",
        ("hd", "1024x1024"): "0.16",
        ("hd", "1024x1792"): "0.24",
        ("hd", "1792x1024"): "0.16",
        ("standard", "512x512"): "0.04",
    }
    records: list[Record] = []
    for n, (quality, size) in enumerate(cases):
        name, at = f"{quality}-{size}", NOON + n * SECOND
        asked = json({"quality": quality, "size": size, "n": 2})
        records += [
            request(name, at, match_sha256=f"{n:0>64}", api_model="painter", path="/v1/images/generations", body_facts=asked),
            attempt(name, at=at, sent_model="painter", url="https://official.test/v1/images/generations"),
            response(name, at=at + SECOND, facts=json({"images": 2})),
        ]
    built(home, records, rates=rates)
    assert final_charges(home) == {f"{quality}-{size}": Decimal(charge) for (quality, size), charge in cases.items()}


@pytest.mark.parametrize("condition", ["tier=flex", "hours=22:00-06:00", "days=sat", "region=us", "endpoint=responses"])
def test_a_tie_is_refused_with_both_lines(home: Home, condition: str) -> None:
    """A row for long prompts and one for a tier, an hour or a day can meet, and nothing says which wins: the build does not guess."""
    first = BOOK["rates.csv"].count("\n") + 1
    rates = more_rates("official tied input 2 min=1001", f"official tied input 3 {condition}")
    with pytest.raises(BookError) as refused:
        built(home, call("r1", model="tied"), rates=rates)
    words = str(refused.value)
    assert f"rates.csv:{first + 1}" in words
    assert f"line {first}" in words
    assert "neither is more specific" in words


def test_a_duplicate_and_an_overlap_are_refused_with_both_lines(home: Home) -> None:
    """The same use priced twice at once, whether from one instant or from two."""
    first = BOOK["rates.csv"].count("\n") + 1
    for begins in ("2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"):
        ends = "to=2026-12-01T00:00:00Z"
        rates = more_rates(f"official twice input 1 {ends}", f"official twice input 2 from={begins} {ends}")
        with pytest.raises(BookError) as refused:
            built(home, call("r1", model="twice"), rates=rates)
        assert f"rates.csv:{first + 1}" in str(refused.value)
        assert f"line {first}" in str(refused.value)


# ---- zero and missing, and the three prices ----


def test_zero_for_one_meter_and_nothing_for_another(home: Home) -> None:
    """Output at a configured zero is charged as zero; the same output without a row leaves the charge unknown."""
    rates = more_rates("official free-out input 1", "official free-out output 0", "official no-out input 1")
    built(home, [*call("zero", model="free-out"), *call("missing", NOON + SECOND, model="no-out")], rates=rates)
    assert final_charges(home) == {"zero": Decimal("0.001"), "missing": None}
    assert rows(home, "SELECT request_id, meter FROM unpriced") == [{"request_id": "missing", "meter": "output"}]
    assert one(home, "SELECT amount FROM charges WHERE request_id = 'zero' AND meter = 'output'") == {"amount": Decimal(0)}


def test_list_charged_and_vendor_reported_stand_side_by_side(home: Home) -> None:
    """Routed: list 1000 x 0.00000015 + 500 x 0.0000006 = 0.00045; charged 0.00003 + 0.00006 = 0.00009; the vendor says 0.0001.

    So 0.00036 is saved against the list, and the vendor's own figure is 0.00001 above the contract.
    """
    records: list[Record] = [request("r1"), attempt("r1", channel="routed"), response("r1", usage=usage(1000, 500, cost="0.0001"))]
    built(home, records)
    assert one(home, "SELECT list_charge, final_charge, vendor_charge, list_charge - final_charge AS saved FROM ledger") == {
        "list_charge": Decimal("0.00045"),
        "final_charge": Decimal("0.00009"),
        "vendor_charge": Decimal("0.0001"),
        "saved": Decimal("0.00036"),
    }


def test_a_list_price_changes_on_its_own_day(home: Home) -> None:
    """From the next day the list says 0.30 a million and the contract stays: 1000 x 0.0000003 + 0.0003 against the same 0.00009."""
    rates = more_rates("* openai/gpt-4o-mini input 0.30 book=list from=2026-10-11T00:00:00Z")
    records: list[Record] = []
    for name, at in {"today": NOON, "tomorrow": NOON + DAY}.items():
        records += [
            request(name, at, match_sha256=f"{name:m<64}"[:64]),
            attempt(name, at=at, channel="routed"),
            response(name, at=at + SECOND, usage=usage(1000, 500)),
        ]
    built(home, records, rates=rates)
    assert rows(home, "SELECT request_id, list_charge, final_charge FROM ledger ORDER BY created_at") == [
        {"request_id": "today", "list_charge": Decimal("0.00045"), "final_charge": Decimal("0.00009")},
        {"request_id": "tomorrow", "list_charge": Decimal("0.0006"), "final_charge": Decimal("0.00009")},
    ]


def test_a_price_of_what_nothing_records_leaves_the_charge_unknown(home: Home) -> None:
    """rates.csv takes every meter that vendors price; of those that no message counts it is said which one is missing, by its name.

    At a price of zero none is missing: 1000 x 1 / 1e6 = 0.001.
    """
    unrecorded = [meter.name for meter in METERS if not meter.recorded]
    tokens = [f"official {name} input 1" for name in (*unrecorded, "none")]
    fees = [*(f"official {name} {name} 0.5 per=1" for name in unrecorded), "official none dbu 0 per=1"]
    calls = [record for n, name in enumerate((*unrecorded, "none")) for record in call(name, NOON + n * SECOND, 1000, 0, name)]
    built(home, calls, rates=more_rates(*tokens, *fees))
    assert final_charges(home) == {**dict.fromkeys(unrecorded), "none": Decimal("0.001")}
    assert {row["request_id"]: row["reason"] for row in rows(home, "SELECT request_id, reason FROM unpriced")} == {
        name: f"rates.csv prices {name} there, and nothing that is recorded tells how many" for name in unrecorded
    }
