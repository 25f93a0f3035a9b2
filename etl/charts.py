"""Charts as SVG text, drawn here by Vega-Lite from exact rows: floats carry lengths only, every figure told is the exact one.

A chart is 480 wide and scales with its page. Its font is one that the drawing library brings, so that the same rows give
the same bytes on every machine; colours of text and rules are the page's (`templates/page.css`), for light and dark.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import vl_convert

from etl.table import cell, instant
from schemas.errors import LedgerError
from schemas.money import plain

WIDTH = 480
ROW = 22  # height of one bar
# Okabe and Ito's colours, which people with any colour vision tell apart, without the yellow that vanishes on white.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#8c6bb1")
GOOD, BAD, UNKNOWN_END = "#009e73", "#d55e00", "#999999"
MOST_SERIES = len(COLOURS)
MOST_BARS = 12
LONG_NAME = 28  # characters that fit into half of a legend's line

_THEME = {
    "background": None,
    "font": "Liberation Sans, Arial, Helvetica, sans-serif",
    "padding": {"left": 26, "right": 18, "top": 4, "bottom": 4},  # room for a reader's font that is wider than ours
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelLimit": 140,
        "gridColor": "#8884",
        "domainColor": "#888",
        "tickColor": "#888",
    },
    "legend": {
        "labelFontSize": 12,
        "labelLimit": 200,
        "title": None,
        "orient": "top",
        "direction": "horizontal",
        "columns": 2,
        "columnPadding": 32,
    },
}
_SIZE = re.compile(r'^<svg ([^>]*?)width="[\d.]+" height="[\d.]+" ')


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: what it stands for, how long it is, and of which series where bars stand in groups."""

    name: str
    amount: Decimal
    series: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A value from an instant on, until the next of its series."""

    series: str
    at: dt.datetime
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took from one millisecond to another; an end that is not known is null."""

    name: str
    start_ms: int
    first_token_ms: int | None
    end_ms: int | None
    is_ok: bool
    told: str


def bars(rows: Sequence[Bar], unit: str) -> str:
    """Lying bars in the order given, at most twelve names; grouped where the rows name series."""
    names = list(dict.fromkeys(cell(row.name) for row in rows))[:MOST_BARS]
    series = list(dict.fromkeys(row.series for row in rows))
    values = [
        {
            "name": cell(row.name),
            "series": row.series,
            "amount": float(row.amount),
            "told": f"{cell(row.name)} {row.series} {plain(row.amount)} {unit}",
        }
        for row in rows
        if cell(row.name) in names
    ]
    encoding: dict[str, Any] = {
        "y": {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": {"labelLimit": 190}},
        "x": {
            "field": "amount",
            "type": "quantitative",
            "title": unit,
            "axis": {"tickCount": 3, "labelOverlap": True, "labelSeparation": 16},
        },
        "description": {"field": "told", "type": "nominal"},
        "color": {"value": COLOURS[0]},
    }
    if len(series) > 1:
        encoding["yOffset"] = {"field": "series", "type": "nominal", "sort": series}
        encoding["color"] = {"field": "series", "type": "nominal", "sort": series, "scale": {"range": list(COLOURS)}}
    height = len(names) * ROW * max(1, min(len(series), 2)) + 50 + (24 if len(series) > 1 else 0)
    return _draw(height, {"data": {"values": values}, "mark": "bar", "encoding": encoding})


def steps(points: Sequence[Point], begin: dt.datetime, end: dt.datetime, unit: str) -> str:
    """One stepped line a series from `begin` to `end`, at most eight series; the time axis is UTC."""
    mark = {"type": "line", "interpolate": "step-after", "strokeWidth": 2, "point": {"size": 12}}
    return _over_time(points, unit, mark, [instant(begin), instant(end)])


def lines(points: Sequence[Point], begin: dt.datetime, end: dt.datetime, unit: str) -> str:
    """One straight line a series through its points, for what is measured anew each day; at most eight series, UTC."""
    return _over_time(points, unit, {"type": "line", "strokeWidth": 2, "point": {"size": 20}}, [instant(begin), instant(end)])


def columns(points: Sequence[Point], begin: dt.datetime, end: dt.datetime, unit: str) -> str:
    """One standing bar a UTC day, its series upon one another; at most eight series."""
    return _over_time(points, unit, {"type": "bar"}, [instant(begin), instant(end)])


def _over_time(points: Sequence[Point], unit: str, mark: dict[str, Any], domain: list[str]) -> str:
    series = list(dict.fromkeys(cell(point.series) for point in points))[:MOST_SERIES]
    values = [
        {
            "series": cell(point.series),
            "at": instant(point.at),
            "amount": float(point.amount),
            "told": f"{cell(point.series)} {instant(point.at)} {plain(point.amount)} {unit}",
        }
        for point in points
        if cell(point.series) in series
    ]
    days = {"timeUnit": "utcyearmonthdate"} if mark["type"] == "bar" else {}
    encoding: dict[str, Any] = {
        "x": {
            "field": "at",
            "type": "temporal",
            "scale": {"type": "utc", "domain": domain},
            "title": "day (UTC)",
            "axis": {"format": "%d %b", "tickCount": 6, "labelFlush": True, "labelOverlap": True},
            **days,
        },
        "y": {"field": "amount", "type": "quantitative", "title": unit, "axis": {"tickCount": 5}},
        "color": {"field": "series", "type": "nominal", "sort": series, "scale": {"range": list(COLOURS)}},
        "description": {"field": "told", "type": "nominal"},
    }
    # two names of one wallet differ in their ends, so a long name has a line of its own instead of losing it
    columns = 1 if max(map(len, series), default=0) > LONG_NAME else 2
    encoding["color"]["legend"] = {"columns": columns, "labelLimit": 400 // columns}
    return _draw(230 + 20 * -(-len(series) // columns), {"data": {"values": values}, "mark": mark, "encoding": encoding})


def timeline(spans: Sequence[Span]) -> str:
    """Spans below one another on one scale of milliseconds, a tick where the first output came; an open end fades out."""
    names = [cell(span.name) for span in spans]
    last = max([span.end_ms or span.first_token_ms or span.start_ms for span in spans] + [1])
    values = [
        {
            "name": cell(span.name),
            "start": span.start_ms,
            "first": span.first_token_ms,
            "end": last if span.end_ms is None else span.end_ms,
            "how": "unknown end" if span.end_ms is None else "ok" if span.is_ok else "failed",
            "told": cell(span.told),
        }
        for span in spans
    ]
    y = {"field": "name", "type": "nominal", "sort": names, "title": None}
    hows = {"ok": GOOD, "failed": BAD, "unknown end": UNKNOWN_END}
    shown = [how for how in hows if any(value["how"] == how for value in values)]
    span = {
        "mark": {"type": "bar", "height": 12, "minBandSize": 2},
        "encoding": {
            "y": y,
            "x": {"field": "start", "type": "quantitative", "title": "ms after the request came in", "axis": {"tickCount": 6}},
            "x2": {"field": "end"},
            "color": {"field": "how", "type": "nominal", "scale": {"domain": shown, "range": [hows[how] for how in shown]}},
            "description": {"field": "told", "type": "nominal"},
        },
    }
    first = {
        "transform": [{"filter": "datum.first !== null"}],
        "mark": {"type": "tick", "thickness": 2, "size": 18, "color": "#56b4e9"},
        "encoding": {"y": y, "x": {"field": "first", "type": "quantitative"}, "description": {"value": "first output"}},
    }
    return _draw(len(names) * ROW + 76, {"data": {"values": values}, "layer": [span, first]})


def waterfall(rows: Sequence[Bar], total: str, unit: str) -> str:
    """Lying bars that each begin where the one above ends, and their sum last; what adds and what takes away differ in colour."""
    values: list[dict[str, Any]] = []
    at = Decimal(0)
    for row in rows:
        how = "adds" if row.amount > 0 else "takes away"
        values.append(_stretch(row.name, at, at + row.amount, row.amount, how, unit))
        at += row.amount
    values.append(_stretch(total, Decimal(0), at, at, "sum", unit))
    names = [value["name"] for value in values]
    hows = {"adds": BAD, "takes away": GOOD, "sum": COLOURS[0]}
    shown = [how for how in hows if any(value["how"] == how for value in values)]
    encoding = {
        "y": {"field": "name", "type": "nominal", "sort": names, "title": None, "axis": {"labelLimit": 190}},
        "x": {
            "field": "from",
            "type": "quantitative",
            "title": unit,
            "axis": {"tickCount": 3, "labelOverlap": True, "labelSeparation": 16},
        },
        "x2": {"field": "to"},
        "color": {"field": "how", "type": "nominal", "scale": {"domain": shown, "range": [hows[how] for how in shown]}},
        "description": {"field": "told", "type": "nominal"},
    }
    return _draw(len(names) * ROW + 74, {"data": {"values": values}, "mark": {"type": "bar", "minBandSize": 2}, "encoding": encoding})


def _stretch(name: str, begin: Decimal, end: Decimal, amount: Decimal, how: str, unit: str) -> dict[str, Any]:
    told = f"{cell(name)} {plain(amount)} {unit}"
    return {"name": cell(name), "from": float(begin), "to": float(end), "how": how, "told": told}


class ChartError(LedgerError):
    """The machine has not enough left to draw a chart."""


def _draw(height: int, spec: dict[str, Any]) -> str:
    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": _THEME,
        **spec,
    }
    return _svg(json.dumps(whole))


@functools.lru_cache(maxsize=64)  # the pages draw the same rows for each reader
def _svg(whole: str) -> str:
    try:
        svg = vl_convert.vegalite_to_svg(whole, vl_version="6.4")
    except ValueError as error:  # of a specification that is ours: what it lacks is a thread, a file or memory
        cure = "allow more open files, threads or memory, and run it again"
        raise ChartError(f"a chart could not be drawn: {str(error).splitlines()[-1]}", cure) from None
    return _SIZE.sub(r"<svg \1", svg, count=1)  # the page says how large it is shown, the viewBox keeps its shape
