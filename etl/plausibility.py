"""Whether reported usage can be true: hard rules for each reply, and a sequential test for each channel and model. Pure.

The sequential test is an e-process by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
betting", JRSS B 2024). Its null: on average a channel reports at most `band` more tokens than we count, as a share. Each
reply multiplies the wealth of several fixed bets by 1 + bet x (excess - band); their average is again such a wealth, and by
Ville's inequality it ever reaches 1 / alpha with a probability of at most alpha, however often one looks. The false alarm
rate of all channels and models together stays below ALPHA, for it is shared among them. These are statistics, never money.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from schemas.counts import counted

ALPHA = 0.05
EXACT_BAND = 0.02  # a published encoding: framing and special tokens differ by no more
APPROXIMATE_BAND = 0.25  # an estimate with another vendor's encoding
SLACK = 16  # tokens of framing by which a whole count may be off
CLIP = 0.5  # an excess is cut to this on both sides: one reply cannot decide alone
BETS = (0.25, 0.5, 0.9)  # as shares of the largest bet that cannot lose everything


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered try: what the vendor reported and what we count in what passed. None: not known."""

    request_id: str
    ordinal: int
    channel: str
    model: str
    at: int
    encoding: str
    approximate: bool
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    counted_input: int | None = None
    counted_output: int | None = None  # what is visible
    hidden: bool = False  # the reply held what is billed and not seen
    max_tokens: int | None = None  # what the request allowed
    prefix: str | None = None  # a hash of how the prompt begins

    @property
    def band(self) -> float:
        """How much more than our count may be reported, as a share."""
        return APPROXIMATE_BAND if self.approximate else EXACT_BAND


@dataclass(frozen=True, slots=True)
class Flag:
    """One thing that cannot be true, or is not to be believed, with its evidence."""

    rule: str
    channel: str
    model: str
    evidence: str  # request/ordinal, or how much was looked at
    detail: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sequential test of one channel and model."""

    channel: str
    model: str
    encoding: str
    band: float
    replies: int
    reported: int
    counted: int
    wealth: float  # the largest so far
    threshold: float
    crossed_after: int | None  # replies until it reached the threshold

    @property
    def excess(self) -> float | None:
        """Reported beyond counted, as a share."""
        return (self.reported - self.counted) / self.counted if self.counted else None


# ---- hard rules ----


def broken_rules(replies: Iterable[Reply]) -> Iterator[Flag]:
    """Every reply that breaks a rule which no honest reply can break."""
    seen: set[tuple[str, str, str]] = set()
    for reply in sorted(replies, key=lambda r: (r.at, r.request_id, r.ordinal)):
        for rule, detail in _broken(reply):
            yield Flag(rule, reply.channel, reply.model, f"{reply.request_id}/{reply.ordinal}", detail)
        if reply.prefix is not None:
            key = (reply.channel, reply.model, reply.prefix)
            if reply.cached_tokens and key not in seen:
                detail = f"{counted(reply.cached_tokens, 'token')} from a cache, and no earlier prompt here began so"
                yield Flag("cache_first_seen", reply.channel, reply.model, f"{reply.request_id}/{reply.ordinal}", detail)
            seen.add(key)


def _broken(reply: Reply) -> Iterator[tuple[str, str]]:
    if _above(reply.cached_tokens, reply.input_tokens):
        yield "cached_above_input", f"{reply.cached_tokens} cached of {reply.input_tokens} input tokens"
    if _above(reply.reasoning_tokens, reply.output_tokens):
        yield "reasoning_above_output", f"{reply.reasoning_tokens} reasoning of {reply.output_tokens} output tokens"
    if _above(reply.output_tokens, reply.max_tokens):
        yield "output_above_max", f"{reply.output_tokens} output tokens, and {reply.max_tokens} were allowed"
    visible = reply.counted_output
    if visible is not None and reply.output_tokens is not None and not reply.approximate:
        least = visible - SLACK - visible * EXACT_BAND
        if least > reply.output_tokens:
            yield "visible_above_output", f"{counted(visible, 'token was', 'tokens were')} seen, and {reply.output_tokens} reported"


def _above(part: int | None, whole: int | None) -> bool:
    return part is not None and whole is not None and part > whole


# ---- the sequential test ----


def pair(reply: Reply) -> tuple[int, int] | None:
    """Reported and counted tokens of the same texts; None where they cannot be compared."""
    reported = counted = 0
    if reply.counted_input is not None and reply.input_tokens is not None:
        reported, counted = reply.input_tokens, reply.counted_input
    if reply.counted_output is not None and reply.output_tokens is not None and not reply.hidden:
        reported += reply.output_tokens - (reply.reasoning_tokens or 0)
        counted += reply.counted_output
    return (reported, counted) if counted else None


def watch(replies: Iterable[Reply], alpha: float = ALPHA) -> tuple[Verdict, ...]:
    """The test of each channel and model, in the order of time."""
    streams: dict[tuple[str, str], list[Reply]] = defaultdict(list)
    for reply in replies:
        if pair(reply) is not None:
            streams[reply.channel, reply.model].append(reply)
    threshold = len(streams) / alpha if streams else 1 / alpha
    return tuple(_verdict(channel, model, own, threshold) for (channel, model), own in sorted(streams.items()))


def _verdict(channel: str, model: str, replies: Sequence[Reply], threshold: float) -> Verdict:
    band = max(reply.band for reply in replies)
    wealth = [1.0] * len(BETS)
    largest, crossed = 1.0, None
    reported = counted = 0
    for number, reply in enumerate(sorted(replies, key=lambda r: (r.at, r.request_id, r.ordinal)), 1):
        told, found = pair(reply) or (0, 0)
        reported, counted = reported + told, counted + found
        # what frames a short text weighs too much in it: its slack is taken off first
        excess = max(-CLIP, min(CLIP, (told - found - min(SLACK, found * band)) / found))
        for place, share in enumerate(BETS):
            wealth[place] *= 1 + share / (CLIP + band) * (excess - band)
        largest = max(largest, sum(wealth) / len(wealth))
        if crossed is None and largest >= threshold:
            crossed = number
    return Verdict(channel, model, replies[-1].encoding, band, len(replies), reported, counted, largest, threshold, crossed)
