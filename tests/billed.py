"""The month that the golden bills are about: eleven calls to a marketplace in October, and prices that work in the head.

A call of 1000 input and 500 output tokens costs 1000 x 0.000001 + 500 x 0.000004 = 0.003.
"""

from __future__ import annotations

from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Record
from tests.rawdata import SECOND, attempt, broken, built, failure, request, response, usage

MINUTE = 60 * SECOND
AT = parse_instant("2026-10-10T12:00:00Z")
MODEL = "openai/gpt-4o-mini"

RATES = """channel,model,meter,price,per,currency,effective_from,effective_to,book,service_tier,min_input_tokens,hours,weekdays,source,note
routed,openai/gpt-4o-mini,input,1.5,1000000,USD,2026-01-01T00:00:00Z,2026-10-05T00:00:00Z,charge,,,,,test,
routed,openai/gpt-4o-mini,output,5,1000000,USD,2026-01-01T00:00:00Z,2026-10-05T00:00:00Z,charge,,,,,test,
routed,openai/gpt-4o-mini,input,1,1000000,USD,2026-10-05T00:00:00Z,,charge,,,,,test,
routed,openai/gpt-4o-mini,cached_input,0.5,1000000,USD,2026-10-05T00:00:00Z,,charge,,,,,test,
routed,openai/gpt-4o-mini,output,4,1000000,USD,2026-10-05T00:00:00Z,,charge,,,,,test,
routed,openai/gpt-4o-mini,input,2,1000000,USD,2026-10-05T00:00:00Z,,charge,priority,,,,test,
routed,openai/gpt-4o-mini,output,7,1000000,USD,2026-10-05T00:00:00Z,,charge,priority,,,,test,
official,gpt-4o-mini,input,0.15,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
official,gpt-4o-mini,output,0.60,1000000,USD,2026-01-01T00:00:00Z,,charge,,,,,test,
"""


def routed(name: str, at: int, end: Record) -> list[Record]:
    """One call to the marketplace that ended so."""
    return [request(name, at, match_sha256=f"{name:m<64}"[:64]), attempt(name, at=at, channel="routed"), end]


def ok(name: str, at: int, prompt: int = 1000, completion: int = 500, cached: int = 0) -> list[Record]:
    """One call that was answered, with its usage."""
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    return routed(name, at, response(name, at=at + SECOND, usage=usage(prompt, completion, **details)))


def traffic() -> list[Record]:
    """What was recorded. Booked in October: 0.003 x 7 (plain, unbilled, tier, price, factor, rounding, moved) + 0.0014 + 0 + ? + 0.0028."""
    records: list[Record] = [
        *ok("plain", AT),
        *ok("unbilled", AT + 10 * MINUTE),
        # 1000 x 0.000001 + 100 x 0.000004 = 0.0014 by the policy for clients that leave
        *routed("aborted", AT + 20 * MINUTE, broken("aborted", at=AT + 20 * MINUTE + SECOND, ending="client_gone", usage=usage(1000, 100))),
        *routed("failed", AT + 30 * MINUTE, failure("failed", at=AT + 30 * MINUTE + SECOND)),
        # no usage, and no body to count: not known
        *routed("untold", AT + 40 * MINUTE, response("untold", at=AT + 40 * MINUTE + SECOND)),
        # 600 x 0.000001 + 400 x 0.0000005 + 500 x 0.000004 = 0.0028
        *ok("cached", AT + 50 * MINUTE, cached=400),
        *ok("tier", AT + 60 * MINUTE),
        *ok("price", AT + 70 * MINUTE),
        *ok("factor", AT + 80 * MINUTE),
        *ok("rounded", AT + 90 * MINUTE),
        *ok("counted", AT + 100 * MINUTE),
        # half an hour into November here, still October for a vendor in Los Angeles
        *ok("november", parse_instant("2026-11-01T00:30:00Z")),
    ]
    return records


def recorded(home: Home, **changes: str) -> None:
    """A home with that month in it."""
    built(home, traffic(), rates=RATES, **changes)


def days() -> list[Record]:
    """Four calls to the vendor itself: two on 10 October, one with 400 cached tokens on the 11th, one on the 12th.

    0.00045 x 2; 600 x 0.00000015 + 400 x 0.000000075 + 500 x 0.0000006 = 0.00042; 0.00045: 0.00177 in all.
    """
    day = 24 * 60 * MINUTE
    records: list[Record] = []
    for name, at, cached in (("one", AT, 0), ("two", AT + MINUTE, 0), ("eleventh", AT + day, 400), ("twelfth", AT + 2 * day, 0)):
        details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
        told = response(name, at=at + SECOND, usage=usage(1000, 500, **details))
        records += [request(name, at, match_sha256=f"{name:m<64}"[:64]), attempt(name, at=at), told]
    return records
