"""The overbilling watch: reported usage recounted from the kept bodies, substituted models, and what vendors' own charges show."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal, localcontext
from typing import Any

import duckdb
import orjson

from etl.build import REPORTED, as_read
from etl.encodings import encoding
from etl.lookup import lookup_tables
from etl.plausibility import Flag, Reply, Verdict, broken_rules, watch
from etl.published import open_ledger, require_period
from etl.reconcile.records import plain_model
from etl.recount import Bodies, Wanted, bodies_of, close_decoders, tokens
from etl.sources import read_sources, register
from etl.table import cell, jsonable, render
from etl.texts import SURFACES, Uncountable, messages_of
from schemas.counts import counted
from schemas.home import Home

PREFIX_CHARACTERS = 4000  # about the 1,024 tokens below which vendors cache nothing
DRIFT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Cost:
    """What 1,000 characters cost on one channel, for one model, of replies whose texts were kept."""

    channel: str
    route: str
    model: str
    characters: int
    charged: Decimal
    per_1000: Decimal


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was looked at and what is flagged."""

    period: str | None
    replies: int
    not_counted: int
    verdicts: tuple[Verdict, ...]
    costs: tuple[Cost, ...]
    flags: tuple[Flag, ...]

    def as_json(self) -> dict[str, Any]:
        """For machines; money as text."""
        return {
            "period": self.period,
            "replies": self.replies,
            "not_counted": self.not_counted,
            "channels": [{**asdict(verdict), "excess": verdict.excess} for verdict in self.verdicts],
            "cost_per_1000_characters": [{name: jsonable(value) for name, value in asdict(cost).items()} for cost in self.costs],
            "flags": [asdict(flag) for flag in self.flags],
        }

    def as_text(self) -> str:
        """The page."""
        blocks = [f"{counted(self.replies, 'answered try', 'answered tries')}, {self.not_counted:,} of them without texts to count"]
        if self.verdicts:
            shown = [
                (v.channel, v.model, v.encoding, f"{v.band:.0%}", v.replies, v.reported, v.counted, _share(v), _told(v))
                for v in self.verdicts
            ]  # fmt: skip
            columns = ("channel", "model", "tokenizer", "band", "replies", "reported", "counted", "excess", "verdict")
            blocks.append("Reported tokens beside our own count\n" + render(columns, shown))
        if self.costs:
            shown_costs = [(c.model, c.channel, c.route, c.characters, c.per_1000) for c in self.costs]
            blocks.append("Cost of 1,000 characters\n" + render(("model", "channel", "route", "characters", "cost"), shown_costs))
        if self.flags:
            flags = [(f.rule, f.channel, f.model, f.evidence, f.detail) for f in self.flags]
            blocks.append("Flagged\n" + render(("rule", "channel", "model", "evidence", "what"), flags))
        else:
            blocks.append("Nothing is flagged.")
        return "\n\n".join(blocks)


def audit_usage(home: Home, period: str | None = None) -> Audit:
    """Recount and judge the published ledger's answered tries, of one month or of all. Raises NoLedgerError or PeriodError."""
    with open_ledger(home) as connection:
        if period is not None:
            require_period(connection, period)
        facts = _rows(connection, _TRIES, period=period)
        substitutions = _rows(connection, _SUBSTITUTIONS, period=period)
        vendor_days = _rows(connection, _VENDOR_DAYS, period=period)
    counted = _counted(home, facts)
    replies = [reply for reply, _ in counted]
    verdicts = watch(replies)
    costs = _costs(counted, facts)
    flags = [
        *broken_rules(_as_recorded(home, replies, facts)),
        *(_overcount(v) for v in verdicts if v.crossed_after is not None),
        *_dearer(costs),
    ]
    flags += [
        Flag("model_substituted", row["channel"], row["sent"], f"{row['example']} and {row['n'] - 1} more", f"{row['served']} served, says {row['source']}")
        for row in substitutions
    ]  # fmt: skip
    flags += _drifts(vendor_days)
    without = sum(reply.counted_input is None and reply.counted_output is None for reply in replies)
    return Audit(period, len(replies), without, verdicts, costs, tuple(flags))


_TRIES = """
    SELECT a.request_id, a.ordinal, a.channel, a.sent_model AS model, epoch_us(a.started_at) AS at, a.raw_request_id, a.raw_ordinal, a.status,
        l.endpoint, l.route, a.charged, a.input_tokens, a.output_tokens, c.cached, c.reasoning, q.subject IS NOT NULL AS is_quarantined,
        strftime(l.created_at, '%Y-%m-%d') AS created, strftime(a.started_at, '%Y-%m-%d') AS started,
        strftime(coalesce(a.ended_at, a.started_at), '%Y-%m-%d') AS ended
    FROM attempts a JOIN ledger l ON a.request_id = l.request_id
    LEFT JOIN (
        SELECT request_id, attempt_ordinal, CAST(sum(quantity) FILTER (WHERE meter LIKE 'cached%') AS BIGINT) AS cached,
            CAST(sum(quantity) FILTER (WHERE meter = 'reasoning') AS BIGINT) AS reasoning
        FROM charges GROUP BY request_id, attempt_ordinal
    ) c ON a.request_id = c.request_id AND a.ordinal = c.attempt_ordinal
    LEFT JOIN (SELECT DISTINCT subject FROM request_findings WHERE kind = 'quarantined_usage') q
        ON q.subject = a.raw_request_id || '/' || a.raw_ordinal
    WHERE a.status = 'ok' AND (a.usage_source = 'reported' OR q.subject IS NOT NULL) AND ($period IS NULL OR l.period = $period)
    ORDER BY a.started_at, a.request_id, a.ordinal
"""
# What each piece of a reply was reported with, as the totals are summed: over what each meter holds on its own.
_AS_REPORTED = """
    SELECT u.raw_id, u.raw_ordinal, u.piece, CAST(sum(u.own) FILTER (WHERE m.family = 'input') AS BIGINT) AS input_tokens,
        CAST(sum(u.own) FILTER (WHERE m.family = 'output') AS BIGINT) AS output_tokens,
        CAST(sum(u.own) FILTER (WHERE u.meter LIKE 'cached%') AS BIGINT) AS cached_tokens,
        CAST(sum(u.own) FILTER (WHERE u.meter = 'reasoning') AS BIGINT) AS reasoning_tokens
    FROM usage_reported u JOIN meter m ON u.meter = m.name WHERE u.part = 'tokens'
    GROUP BY u.raw_id, u.raw_ordinal, u.piece ORDER BY u.raw_id, u.raw_ordinal, u.piece
"""
_SUBSTITUTIONS = """
    SELECT s.channel, s.sent, s.served, s.source, count(*) AS n, min(s.request_id || '/' || s.attempt_ordinal) AS example
    FROM model_substitution s JOIN ledger l ON s.request_id = l.request_id
    WHERE s.verdict = 'different' AND ($period IS NULL OR l.period = $period)
    GROUP BY s.channel, s.sent, s.served, s.source ORDER BY s.channel, s.sent, s.served, s.source
"""
_VENDOR_DAYS = """
    SELECT a.channel, a.sent_model AS model, strftime(a.started_at, '%Y-%m-%d') AS day, count(*) AS n, sum(a.charged) AS ours, sum(a.vendor_charge) AS theirs
    FROM attempts a JOIN ledger l ON a.request_id = l.request_id
    WHERE a.charged > 0 AND a.vendor_charge IS NOT NULL AND ($period IS NULL OR l.period = $period)
    GROUP BY a.channel, a.sent_model, day ORDER BY a.channel, a.sent_model, day
"""


def _rows(connection: duckdb.DuckDBPyConnection, query: str, **values: str | None) -> list[dict[str, Any]]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


# ---- the recount ----


def _counted(home: Home, facts: Sequence[dict[str, Any]]) -> list[tuple[Reply, int]]:
    """Each try with what its kept texts come to, and the characters in them."""
    sources = read_sources(home)
    wanted = [Wanted(f["raw_request_id"], f["raw_ordinal"], frozenset((f["created"], f["started"], f["ended"]))) for f in facts]
    with duckdb.connect(":memory:") as scratch:
        register(scratch, sources)
        try:
            bodies = bodies_of(scratch, sources, wanted)
        finally:
            close_decoders()
        coders = _encodings(scratch, {f["model"] or "" for f in facts})
    return [_reply(f, bodies.get(f["raw_request_id"], Bodies()), *coders[f["model"] or ""]) for f in facts]


def _encodings(scratch: duckdb.DuckDBPyConnection, models: set[str]) -> dict[str, tuple[str, bool]]:
    """The encoding of each model, and whether it is an estimate, as etl/tables/encodings.csv says."""
    scratch.register("encodings", lookup_tables()["table_encodings"])
    query = (
        "SELECT encoding, approximate FROM encodings WHERE lower(?) LIKE pattern ORDER BY priority, length(pattern) DESC, pattern LIMIT 1"
    )
    return {model: scratch.execute(query, [model]).fetchall()[0] for model in models}


def _reply(facts: dict[str, Any], bodies: Bodies, coder: str, approximate: bool) -> tuple[Reply, int]:
    surface = SURFACES.get(facts["endpoint"])
    asked: dict[str, Any] = {}
    counted_input = counted_output = None
    hidden, characters, prefix = False, 0, None
    if surface is not None:
        try:
            value = orjson.loads(bodies.of(0, "not kept"))
            asked = value if isinstance(value, dict) else {}
            said = surface.prompt(asked)
            if not said.hidden:
                counted_input = tokens(said, encoding(coder))
            text = "".join(said.texts)
            characters += len(text)
            prefix = hashlib.sha256(text[:PREFIX_CHARACTERS].encode()).hexdigest()
        except (Uncountable, orjson.JSONDecodeError):
            pass  # it stays uncounted, and `not_counted` tells how many did
        try:
            if surface.reply is not None:
                answer = surface.reply(list(messages_of(bodies.of(facts["raw_ordinal"], "not kept"))))
                counted_output, hidden = tokens(answer, encoding(coder)), bool(answer.hidden)
                characters += sum(map(len, answer.texts))
        except Uncountable:
            pass  # see above
    limits = [asked.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens")]
    choices = asked.get("n") if isinstance(asked.get("n"), int) else 1
    limit = next((n for n in limits if isinstance(n, int)), None)
    reply = Reply(
        request_id=facts["request_id"],
        ordinal=facts["ordinal"],
        channel=facts["channel"],
        model=facts["model"] or "",
        at=facts["at"],
        encoding=coder,
        approximate=approximate,
        input_tokens=facts["input_tokens"],
        cached_tokens=facts["cached"],
        output_tokens=facts["output_tokens"],
        reasoning_tokens=facts["reasoning"],
        counted_input=counted_input,
        counted_output=counted_output,
        hidden=hidden,
        max_tokens=None if limit is None else limit * (choices or 1),
        prefix=prefix,
    )
    return reply, characters


def _as_recorded(home: Home, replies: Sequence[Reply], facts: Sequence[dict[str, Any]]) -> list[Reply]:
    """The replies, those whose usage is quarantined with what was recorded of it: the ledger has no number of theirs, and the rules ask for it.

    Of a reply in several pieces (the lines of a batch, the parts of other models) each piece is held to the rules that ask for no text.
    """
    quarantined = {(f["raw_request_id"], f["raw_ordinal"]): f["created"] for f in facts if f["is_quarantined"]}
    if not quarantined:
        return list(replies)
    pieces: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    with as_read(home, min(quarantined.values()), REPORTED, {raw_id for raw_id, _ in quarantined}) as connection:
        for row in _rows(connection, _AS_REPORTED):
            pieces[row.pop("raw_id"), row.pop("raw_ordinal")][row.pop("piece")] = row
    found = []
    for reply, fact in zip(replies, facts, strict=True):
        place = (fact["raw_request_id"], fact["raw_ordinal"])
        reported = pieces.get(place, {}) if place in quarantined else {}
        whole = reply if reported.keys() == {""} else replace(reply, counted_input=None, counted_output=None, max_tokens=None)
        found += [replace(whole, **counts) for counts in reported.values()] or [reply]
    return found


# ---- flags over many replies ----


def _told(verdict: Verdict) -> str:
    if verdict.crossed_after is not None:
        return "FLAGGED"
    return "above the band, too few to tell" if verdict.reported - verdict.counted > verdict.band * verdict.counted else "ok"


def _share(verdict: Verdict) -> str | None:
    """What was reported beyond our count; null where we counted nothing, and there is no share of that."""
    return None if verdict.excess is None else f"{verdict.excess:+.1%}"


def _overcount(verdict: Verdict) -> Flag:
    detail = f"reported {cell(_share(verdict))} beside {verdict.encoding} (band {verdict.band:.0%}); seen after {counted(verdict.crossed_after or 0, 'reply', 'replies')}"
    return Flag("overcount", verdict.channel, verdict.model, counted(verdict.replies, "reply", "replies"), detail)


def _costs(counted: Sequence[tuple[Reply, int]], facts: Sequence[dict[str, Any]]) -> tuple[Cost, ...]:
    sums: dict[tuple[str, str, str], list[Any]] = defaultdict(lambda: [0, Decimal(0)])
    for (reply, characters), fact in zip(counted, facts, strict=True):
        if characters and fact["charged"] is not None and reply.counted_output is not None and reply.counted_input is not None:
            found = sums[plain_model(reply.model), reply.channel, fact["route"]]
            found[0] += characters
            found[1] += fact["charged"]
    with localcontext() as context:
        context.prec = 60
        return tuple(
            Cost(channel, route, model, characters, charged, (charged * 1000 / characters).quantize(Decimal("1e-12")))
            for (model, channel, route), (characters, charged) in sorted(sums.items())
        )


def _dearer(costs: Sequence[Cost]) -> list[Flag]:
    """Routed channels on which the same model costs more a character than on an official one."""
    official = {cost.model: cost for cost in costs if cost.route == "official"}
    return [
        Flag(
            "dearer_than_official",
            c.channel,
            c.model,
            counted(c.characters, "character"),
            f"{c.per_1000} for 1,000, {o.channel} {o.per_1000}",
        )
        for c in costs
        if c.route != "official" and (o := official.get(c.model)) is not None and c.per_1000 > o.per_1000
    ]


def _drifts(days: Sequence[dict[str, Any]]) -> list[Flag]:
    """Days on which a vendor's own charges stood in another proportion to ours than on its first day."""
    first: dict[tuple[str, str], Decimal] = {}
    flags = []
    with localcontext() as context:
        context.prec = 60
        for day in days:
            factor = day["theirs"] / day["ours"]
            begun = first.setdefault((day["channel"], day["model"]), factor)
            if abs(factor - begun) > begun * DRIFT:
                detail = f"the vendor charged {factor:.4f} times our price, before {begun:.4f}"
                flags.append(
                    Flag(
                        "multiplier_drift", day["channel"], day["model"] or "", f"{day['day']}, {counted(day['n'], 'try', 'tries')}", detail
                    )
                )
    return flags
