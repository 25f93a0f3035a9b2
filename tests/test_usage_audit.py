"""The overbilling watch: an inflated channel is caught, honest replies are not, and each hard rule names its evidence."""

from __future__ import annotations

import json as plain_json
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from etl.plausibility import Reply, Verdict, broken_rules, watch
from etl.usage_audit import Audit
from schemas.home import Home
from schemas.records import Record
from tests.rawdata import BOOK, DAY, NOON, SECOND, attempt, body, built, request, response, usage
from tests.test_etl_batches import RATES, download, line
from tokenledger import run


def replies(count: int, factor: float = 1.0, seed: int = 1) -> list[Reply]:
    """Replies of an honest vendor with a framing of up to 4 tokens, or of one that reports `factor` times as much."""
    dice = random.Random(seed)
    found = []
    for n in range(count):
        prompt, answer = dice.randint(20, 2000), dice.randint(1, 800)
        repeats = n > 0 and dice.random() < 0.2
        found.append(
            Reply(
                request_id=f"r{n}",
                ordinal=1,
                channel="routed",
                model="gpt-4o-mini",
                at=n,
                encoding="o200k_base",
                approximate=False,
                input_tokens=round((prompt + dice.randint(0, 4)) * factor),
                output_tokens=round((answer + dice.randint(0, 2)) * factor),
                cached_tokens=prompt // 2 if repeats else 0,
                counted_input=prompt,
                counted_output=answer,
                max_tokens=2000,
                prefix="p0" if repeats else f"p{n}",
            )
        )
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_channel_that_inflates_by_a_tenth_is_flagged_within_100_replies(seed: int) -> None:
    """Ten percent more tokens on every reply."""
    (verdict,) = watch(replies(100, 1.1, seed))
    assert verdict.crossed_after is not None
    assert verdict.crossed_after <= 100


def test_ten_thousand_honest_replies_raise_nothing() -> None:
    """No hard rule, and no alarm of the sequential test."""
    honest = replies(10_000)
    assert list(broken_rules(honest)) == []
    assert [verdict.crossed_after for verdict in watch(honest)] == [None]


def test_false_alarms_stay_below_one_in_twenty() -> None:
    """Noise of up to 10 % around a true excess of exactly the band, 400 channels of 200 replies: at most one in twenty is flagged."""
    alarms = 0
    for seed in range(400):
        dice = random.Random(seed)
        noisy = [replace(r, input_tokens=round(10_000 * (1.02 + dice.uniform(-0.1, 0.1))), counted_input=10_000, counted_output=None) for r in replies(200, 1.0, seed)]  # fmt: skip
        alarms += watch(noisy)[0].crossed_after is not None
    assert alarms <= 20


@pytest.mark.parametrize(
    ("rule", "facts"),
    [
        ("cached_above_input", {"cached_tokens": 11, "input_tokens": 10}),
        ("reasoning_above_output", {"reasoning_tokens": 501, "output_tokens": 500}),
        ("output_above_max", {"output_tokens": 501, "max_tokens": 500}),
        ("visible_above_output", {"counted_output": 600, "output_tokens": 500}),
        ("cache_first_seen", {"cached_tokens": 5, "input_tokens": 10, "prefix": "new"}),
    ],
)
def test_each_hard_rule_names_its_reply(rule: str, facts: dict[str, int]) -> None:
    """One reply that breaks it is named, with what was reported."""
    plain = Reply("r1", 1, "routed", "m", 0, "o200k_base", False)
    flags = list(broken_rules([replace(plain, **facts)]))  # type: ignore[arg-type]  # a table of facts of several types
    assert [(flag.rule, flag.evidence) for flag in flags] == [(rule, "r1/1")]


def _talk(name: str, at: int, factor: int) -> list[Record]:
    prompt, answer = "one two three four five six seven eight nine ten " * 20, "yes " * 200
    asked = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": prompt}]})
    replied = orjson.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": answer}}]})
    return [
        request(name, at, match_sha256=f"{name:m<64}"[:64]),
        attempt(name, at=at, channel="routed"),
        response(name, at=at + SECOND, usage=usage(207 * factor, 201 * factor)),
        body(name, 0, asked, at),
        body(name, 1, replied, at + SECOND),
    ]


@pytest.mark.parametrize(("factor", "code"), [(1, 0), (2, 1)])
def test_the_command_recounts_what_was_kept(factor: int, code: int, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve calls whose texts were kept: reported as counted, exit 0; reported twice over, exit 1 with the channel named."""
    built(home, [record for n in range(12) for record in _talk(f"r{n}", NOON + n * 60 * SECOND, factor)])
    assert run(["audit", "--home", str(home.root), "--json"]) == code
    found = plain_json.loads(capsys.readouterr().out)
    (channel,) = found["channels"]
    assert (channel["channel"], channel["encoding"], channel["replies"]) == ("routed", "o200k_base", 12)
    assert [flag["rule"] for flag in found["flags"]] == (["overcount"] if factor == 2 else [])


def _said(name: str, at: int, channel: str, cost: str | None = None, served: str = "gpt-4o-mini-2024-07-18") -> list[Record]:
    """An honest call whose texts were kept: 207 tokens asked, 201 answered, and what the vendor says it cost."""
    told = _talk(name, at, 1)
    told[1] = attempt(name, at=at, channel=channel)
    more = {} if cost is None else {"cost": cost}
    told[2] = response(name, at=at + SECOND, usage=usage(207, 201, **more), served_model=served)
    return told


# Routed at 0.30 and 1.20 a million: 207 x 0.0000003 + 201 x 0.0000012 = 0.0003033, twice what official takes for the same texts.
DEARER = BOOK["rates.csv"].replace("input,0.03,", "input,0.30,").replace("output,0.12,", "output,1.20,")


@pytest.mark.parametrize(
    ("rule", "routed"),
    [
        # cheaper than official, of one model, charged as booked: 207 x 0.00000003 + 201 x 0.00000012 = 0.00003033
        (None, {}),
        ("model_substituted", {"served": "gpt-3.5-turbo-0125"}),
        # 1.2 times our price on the second day
        ("multiplier_drift", {"cost": "0.000036396"}),
        ("dearer_than_official", {"cost": "0.0003033"}),
    ],
)
def test_each_flag_over_many_replies_names_its_channel(
    rule: str | None, routed: dict[str, str], home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A day as agreed and a day with one difference beside the official channel: that one flag, and none where nothing differs."""
    cost = "0.0003033" if rule == "dearer_than_official" else "0.00003033"
    second = {"cost": cost, **routed}
    records = [
        *_said("official", NOON, "official"),
        *_said("first", NOON + SECOND * 60, "routed", cost),
        *_said("second", NOON + DAY, "routed", **second),
    ]
    built(home, records, **({"rates": DEARER} if rule == "dearer_than_official" else {}))
    assert run(["audit", "--home", str(home.root), "--period", "2026-10", "--json"]) == (0 if rule is None else 1)
    flags = plain_json.loads(capsys.readouterr().out)["flags"]
    assert [(flag["rule"], flag["channel"]) for flag in flags] == ([] if rule is None else [(rule, "routed")])
    if rule == "multiplier_drift":
        assert flags[0]["detail"] == "the vendor charged 1.2000 times our price, before 1.0000"
    if rule == "model_substituted":
        assert "gpt-3.5-turbo-0125 served" in flags[0]["detail"]


@pytest.mark.parametrize(
    ("rule", "reported", "details"),
    [
        ("cached_above_input", (207, 201), {"prompt_tokens_details": {"cached_tokens": 5000}}),
        ("reasoning_above_output", (207, 201), {"completion_tokens_details": {"reasoning_tokens": 500}}),
    ],
)
def test_usage_that_is_quarantined_is_audited(
    rule: str, reported: tuple[int, int], details: dict[str, Any], home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger charges nothing for what cannot be true and has no number of it: it is an answered try all the same, and flagged."""
    odd = _talk("odd", NOON + DAY, 1)
    odd[2] = response("odd", at=NOON + DAY + SECOND, usage=usage(*reported, **details))
    built(home, [*_talk("plain", NOON, 1), *odd])
    assert run(["audit", "--home", str(home.root), "--json"]) == 1
    found = plain_json.loads(capsys.readouterr().out)
    assert (found["replies"], found["not_counted"], found["channels"][0]["replies"]) == (2, 0, 1)
    assert (rule, "odd/1") in [(flag["rule"], flag["evidence"]) for flag in found["flags"]]


def _of_batch(name: str, cached: int) -> dict[str, Any]:
    reported = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": cached}}
    return line(name, 100, 5, usage=reported)


def test_each_piece_of_quarantined_usage_is_audited(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """In the sum over a batch's lines an honest line would hide what another one reports inside its input."""
    lines = [_of_batch("a", 0), _of_batch("b", 150)]
    built(home, download(lines=lines), rates=RATES)
    assert run(["audit", "--home", str(home.root), "--json"]) == 1
    flags = plain_json.loads(capsys.readouterr().out)["flags"]
    assert [flag["rule"] for flag in flags] == ["cached_above_input"]
    assert flags[0]["detail"] == "150 cached of 100 input tokens"


def test_tokens_where_we_counted_none_are_above_every_band() -> None:
    """There is no share of nothing: it is unknown, and neither +0.0% nor ok."""
    verdict = Verdict("routed", "m", "o200k_base", 0.02, 1, 100, 0, 1.0, 20.0, None)
    told = Audit(None, 1, 0, (verdict,), (), ()).as_text()
    assert told.splitlines()[0] == "1 answered try, 0 of them without texts to count"
    assert "routed m o200k_base 2% 1 100 0 unknown above the band, too few to tell" in " ".join(told.split())
