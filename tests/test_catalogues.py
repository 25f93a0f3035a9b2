"""Price catalogues of others, read into proposed rows: each rule on a small file in that catalogue's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from etl.commands.catalogues import diff, propose
from schemas.bookfile import Problem
from schemas.catalogues import Asked, CatalogueError, Reading, as_csv, read
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.rates import rates_of
from tests.rawdata import write_book

SINCE = "2026-11-01T00:00:00Z"


def _read(kind: str, data: Any, *, zone: str = "UTC", vendor: str | None = None, models: str = "*") -> Reading:
    return read(kind, json.dumps(data).encode(), Asked("official", "USD", zone, models, vendor, parse_instant(SINCE)))


def _rows(reading: Reading) -> list[str]:
    """Model, meter, price, units, beginning and end, and conditions, as the proposed file has them; a valid file it must be."""
    asked = Asked("official", "USD", "UTC", "*", None, parse_instant(SINCE))
    text = as_csv(reading.proposals, asked, "s", "n")
    problems: list[Problem] = []
    rates_of("proposed", text.encode(), frozenset({"official"}), ("USD",), problems)
    assert problems == []
    cells = [line.split(",") for line in text.splitlines()[1:]]
    return [" ".join(cell for cell in (*row[1:5], *row[6:8], *row[9:13]) if cell) for row in cells]


def _genai(**model: Any) -> list[dict[str, Any]]:
    told = {"id": "m", "match": {"or_": [{"equals": "m"}, {"starts_with": "m-"}]}, "price_variants": None} | model
    return [{"id": "openai", "models": [told]}]


# ---- genai-prices ----


def test_genai_steps_count_above_their_start_and_every_unit_has_its_meter() -> None:
    """A start of 272000 is "from 272001 tokens"; a thousand searches stay a thousand; OpenAI's cache writes last 30 minutes."""
    prices = {
        "input_mtok": {"base": "2", "tiers": [{"start": 272000, "price": "4"}]},
        "cache_write_mtok": "2.5",
        "web_searches_kcount": "10",
        "output_mtok": None,
    }
    assert _rows(_read("genai-prices", _genai(prices=prices))) == [
        f"m cache_write_30m 2.5 1000000 {SINCE}",
        f"m input 2 1000000 {SINCE}",
        f"m input 4 1000000 {SINCE} 272001",
        f"m search_call 10 1000 {SINCE}",
    ]


def test_genai_dated_prices_keep_their_dates_and_what_is_dropped_ends() -> None:
    """From 10 December the new list holds and names no cached price: the old one ends there."""
    prices = [
        {"constraint": None, "prices": {"input_mtok": "2", "cache_read_mtok": "1"}},
        {"constraint": {"start_date": "2026-12-10"}, "prices": {"input_mtok": "3"}},
    ]
    assert _rows(_read("genai-prices", _genai(prices=prices))) == [
        f"m cached_input 1 1000000 {SINCE} 2026-12-10T00:00:00Z",
        f"m input 2 1000000 {SINCE} 2026-12-10T00:00:00Z",
        "m input 3 1000000 2026-12-10T00:00:00Z",
    ]


def test_genai_prices_of_an_unknown_past_are_left_out() -> None:
    """What ended before the beginning that was asked for, and began nobody knows when, would be a guess."""
    prices = [{"prices": {"input_mtok": "2"}}, {"constraint": {"start_date": "2026-10-01"}, "prices": {"input_mtok": "3"}}]
    reading = _read("genai-prices", _genai(prices=prices))
    assert _rows(reading) == ["m input 3 1000000 2026-10-01T00:00:00Z"]
    assert [one.what for one in reading.left_out] == ["prices until 2026-10-01T00:00:00Z"]


def test_genai_variants_are_tiers_and_cross_the_prompt_length() -> None:
    """A flex price without steps beside a plain price with one holds for long prompts too; a search type is no tier."""
    prices = {"input_mtok": {"base": "2", "tiers": [{"start": 1000, "price": "4"}]}}
    variants = [
        {"when": {"service_tier": "default"}, "prices": {}},
        {"when": {"service_tier": "flex"}, "prices": {"input_mtok": "1"}},
        {"when": {"processing": "batch"}, "constraint": {"start_date": "2026-10-14"}, "prices": {"input_mtok": "0.5"}},
        {"when": {"search_type": "web"}, "prices": {"input_mtok": "9"}},
    ]
    reading = _read("genai-prices", _genai(prices=prices, price_variants=variants))
    assert _rows(reading) == [
        f"m input 2 1000000 {SINCE}",
        f"m input 4 1000000 {SINCE} 1001",
        "m input 0.5 1000000 2026-10-14T00:00:00Z batch",
        "m input 0.5 1000000 2026-10-14T00:00:00Z batch 1001",
        f"m input 1 1000000 {SINCE} flex",
        f"m input 1 1000000 {SINCE} flex 1001",
    ]
    assert [(one.what, one.why) for one in reading.left_out] == [("search_type=web", "rates.csv has no such condition or meter")]


def test_genai_hours_are_utc_and_are_not_guessed_for_another_zone() -> None:
    """A window of the day is a row for a channel on UTC, and is named with its reason for one that is not."""
    window = {"start_time": "00:30:00+00:00", "end_time": "16:30:00+00:00"}
    prices = [{"constraint": None, "prices": {"input_mtok": "1"}}, {"constraint": window, "prices": {"input_mtok": "2"}}]
    assert _rows(_read("genai-prices", _genai(prices=prices)))[1:] == [f"m input 2 1000000 {SINCE} 00:30-16:30"]
    elsewhere = _read("genai-prices", _genai(prices=prices), zone="Asia/Shanghai")
    assert [one.why for one in elsewhere.left_out] == ["its hours are in UTC, and the channel's are in Asia/Shanghai"]


def test_what_is_not_exact_is_left_out_with_its_reason() -> None:
    """1 dollar an hour is no exact price a second; 0.36 is 0.0001."""
    reading = _read("genai-prices", _genai(prices={"input_audio_hours": "0.36"}))
    assert _rows(reading) == [f"m second 0.36 3600 {SINCE}"]
    rough = _read("genai-prices", _genai(prices={"input_audio_hours": "1"}))
    assert [(one.what, one.why) for one in rough.left_out] == [("second", "1 per 3600 is not exact in 12 decimals")]


# ---- LiteLLM ----


def test_litellm_suffixes_are_conditions_and_numbers_are_exact() -> None:
    """1.75e-06 a token is 1.75 a million to the last digit; suffixes combine; the vendor's prefix is not sent."""
    model = {
        "litellm_provider": "groq",
        "input_cost_per_token": 1.75e-06,
        "input_cost_per_token_above_200k_tokens": 3.5e-06,
        "input_cost_per_token_batches": 8.75e-07,
        "cache_creation_input_token_cost_above_1hr": 3e-06,
        "input_cost_per_token_decisions": 1e-06,
        "search_context_cost_per_query": {"low": 0.01, "medium": 0.01, "high": 0.01},
        "max_tokens": 1000,
    }
    reading = _read("litellm", {"groq/m": model, "other/m": {"litellm_provider": "other"}, "sample_spec": {}})
    assert _rows(reading) == [
        f"m cache_write_1h 3 1000000 {SINCE}",
        f"m input 1.75 1000000 {SINCE}",
        f"m input 3.5 1000000 {SINCE} 200001",
        f"m input 0.875 1000000 {SINCE} batch",
        f"m input 0.875 1000000 {SINCE} batch 200001",
        f"m search_call 10 1000 {SINCE}",
    ]
    assert [one.what for one in reading.left_out] == ["input_cost_per_token_decisions"]


def test_litellm_thresholds_ranges_and_off_peak_windows() -> None:
    """XAI's 128k begins at 128,000 itself; a range begins above its lower end; a whole-day window has no hours."""
    data = {
        "xai/g": {"litellm_provider": "xai", "input_cost_per_token_above_128k_tokens": 6e-06, "input_cost_per_token": 3e-06},
        "q": {
            "litellm_provider": "q",
            "tiered_pricing": [
                {"range": [0, 256000.0], "input_cost_per_token": 5e-08},
                {"range": [256000.0, 1e6], "input_cost_per_token": 2.5e-07},
            ],
        },
        "d": {
            "litellm_provider": "d",
            "input_cost_per_token": 2e-06,
            "off_peak_pricing": {
                "input_cost_per_token": 1e-06,
                "windows": [{"hours_utc": ["10:00-00:00"], "weekdays": [1, 2]}, {"hours_utc": "00:00-00:00", "weekdays": [6, 7]}],
            },
        },
    }
    reading = _read("litellm", data)
    text = [row.replace(SINCE, "@") for row in _rows(reading)]
    assert text[:1] == ["d input 2 1000000 @"]
    windows = {(one.hours, one.weekdays) for one in reading.proposals if one.weekdays}
    assert windows == {("10:00-00:00", "mon,tue"), (None, "sat,sun")}
    assert text[3:] == [
        "g input 3 1000000 @",
        "g input 6 1000000 @ 128000",
        "q input 0.05 1000000 @",
        "q input 0.25 1000000 @ 256001",
    ]


# ---- OpenRouter ----


def test_openrouter_zeros_are_not_prices_but_for_the_tokens_themselves() -> None:
    """A free model's tokens cost a configured zero; "internal_reasoning": "0" means "not priced apart" and makes no row; -1 varies."""
    data = {
        "data": [
            {"id": "a/free", "pricing": {"prompt": "0", "completion": "0", "internal_reasoning": "0", "web_search": "0", "image": "0"}},
            {"id": "a/auto", "pricing": {"prompt": "-1", "completion": "-1"}},
            {
                "id": "a/long",
                "pricing": {
                    "prompt": "0.00000125",
                    "web_search": "0.01",
                    "image": "0.005",
                    "overrides": [{"min_prompt_tokens": 200000, "prompt": "0.0000025"}],
                },
            },
        ]
    }
    reading = _read("openrouter", data)
    assert _rows(reading) == [
        f"a/free input 0 1000000 {SINCE}",
        f"a/free output 0 1000000 {SINCE}",
        f"a/long input 1.25 1000000 {SINCE}",
        f"a/long input 2.5 1000000 {SINCE} 200001",
        f"a/long search_call 0.01 1 {SINCE}",
    ]
    assert [(one.model, one.what) for one in reading.left_out] == [("a/auto", "completion"), ("a/auto", "prompt"), ("a/long", "image")]


def test_openrouter_windows_are_in_utc() -> None:
    """1630 to 30 is 16:30-00:30 on the days that are named."""
    overrides = [{"utc_start": "1630", "utc_end": "0030", "utc_days": ["mon", "tue"], "prompt": "0.000001"}]
    data = {"data": [{"id": "a/m", "pricing": {"prompt": "0.000002", "overrides": overrides}}]}
    assert [(one.hours, one.weekdays) for one in _read("openrouter", data).proposals] == [(None, None), ("16:30-00:30", "mon,tue")]


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"data": [{}]}'])
def test_a_file_of_another_shape_is_refused(content: bytes) -> None:
    """It is said which kinds there are, and nothing is proposed."""
    with pytest.raises(CatalogueError):
        read("openrouter", content, Asked("official", "USD", "UTC", "*", None, parse_instant(SINCE)))


# ---- the commands ----


def test_import_proposes_with_its_source_and_leaves_the_book_alone(home: Home, tmp_path: Path) -> None:
    """Stdout is a file in the form of rates.csv; each row names catalogue, version and the SHA-256 of what was read."""
    write_book(home)
    before = (home.book / "rates.csv").read_bytes()
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(_genai(prices={"input_mtok": "2"})))
    arguments = ["genai-prices", str(file), "--channel", "official", "--version", "0.2.3", "--from", SINCE]
    done = CliRunner().invoke(propose, arguments, obj=home)
    assert done.exit_code == 0, done.output
    row = done.stdout.splitlines()[1]
    assert row.startswith(f"official,m,input,2,1000000,USD,{SINCE},,charge,,,,,genai-prices 0.2.3,proposed from prices.json sha256 ")
    assert "1 row proposed" in done.stderr
    refused = CliRunner().invoke(propose, [*arguments, "--out", str(home.book / "rates.csv")], obj=home)
    assert refused.exit_code != 0
    assert (home.book / "rates.csv").read_bytes() == before


def test_diff_shows_what_is_new_changed_and_gone(home: Home, tmp_path: Path) -> None:
    """Beside the book: input doubles, output stays, reasoning is new, and the cached price is not proposed any more."""
    write_book(home)
    file = tmp_path / "prices.json"
    prices = {"input_mtok": "0.3", "output_mtok": "0.6", "output_reasoning_mtok": "1"}
    file.write_text(json.dumps(_genai(id="gpt-4o-mini", match={"equals": "gpt-4o-mini"}, prices=prices)))
    proposed = tmp_path / "proposed.csv"
    arguments = ["genai-prices", str(file), "--channel", "official", "--from", SINCE, "--out", str(proposed)]
    assert CliRunner().invoke(propose, arguments, obj=home).exit_code == 0
    done = CliRunner().invoke(diff, [str(proposed), "--at", SINCE, "--json"], obj=home)
    assert done.exit_code == 0, done.output
    assert {(row["change"], row["meter"], row["before"], row["after"]) for row in json.loads(done.stdout)} == {
        ("changed", "input", "0.15", "0.3"),
        ("new", "reasoning", None, "1"),
        ("gone", "cached_input", "0.075", None),
    }
    assert "1 row is as in the book" in done.stderr
