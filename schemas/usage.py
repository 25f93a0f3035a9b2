"""Usage objects of one place in a reply, told again and again as it comes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson

_EXACT = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)


def most(before: str, after: str) -> str:
    """Of two JSON objects of usage the later one, with the members that only the earlier has, and the greater of two numbers.

    Chunks count on, and are never added up: a later one that leaves a count out, or begins again at 0, takes nothing back.
    """
    try:
        later = _EXACT.decode(after)
        merged = _merged(_EXACT.decode(before), later)
    except (ValueError, ArithmeticError):  # a number that nothing can compare
        return after
    return after if merged == later else orjson.dumps(merged, default=_written).decode()


def _merged(before: Any, after: Any) -> Any:
    if isinstance(before, dict) and isinstance(after, dict):
        return before | {name: _merged(before[name], value) if name in before else value for name, value in after.items()}
    if after is None:
        return before
    return max(before, after) if isinstance(before, Decimal) and isinstance(after, Decimal) else after


def _written(number: Decimal) -> orjson.Fragment:
    return orjson.Fragment(str(number))
