"""The meters: everything that is counted and priced, and which count lies inside which.

Usage lines partition the total: a meter's own quantity is what the vendor reported for it less what was reported for
the meters inside it, so each token is counted once. A meter without a rate of its own is priced as the meter it lies
inside: a vendor that publishes no cached or reasoning price bills those tokens as plain input or output. Between the two
stand the meters of BEFORE: one price for what is written to a cache or read from it holds for every kind of it.
(LiteLLM's and genai-prices' published rules for absent cache and reasoning rates say the same.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Meter:
    """One thing that is counted."""

    name: str
    unit: str
    family: str  # input | output | other: which ledger total its quantity belongs to
    inside: str | None  # the meter that contains it, and whose price applies where it and those of BEFORE have none
    optional: bool  # true: it costs only where a rate row names it, so its absence is not a missing price
    doc: str
    recorded: bool = True  # false: nothing that passes tells how many, so that where a row prices it the charge is unknown


# An image's or a video's price may depend on its size and quality: a rate row may name the variant, else the plain meter's holds.
IMAGE_SIZES = "256x256 512x512 1024x1024 1024x1536 1536x1024 1024x1792 1792x1024".split()
SEARCH_CONTEXTS = "low medium high".split()  # Perplexity: the fee of a request depends on how much of the web it read
IMAGE_QUALITIES = "standard hd low medium high".split()
VIDEO_SIZES = "480x854 854x480 720x1280 1280x720 1024x1792 1792x1024 1080x1920 1920x1080 2160x3840 3840x2160 480p 720p 1080p 4k".split()

_PLAIN: tuple[Meter, ...] = (
    Meter("input", "token", "input", None, False, "prompt tokens, what lies inside them excepted"),
    Meter("cached_input", "token", "input", "input", False, "prompt tokens read from the vendor's cache"),
    Meter("cache_write_5m", "token", "input", "input", False, "prompt tokens written to a cache kept 5 minutes (or the vendor's default)"),
    Meter("cache_write_30m", "token", "input", "input", False, "prompt tokens written to a cache kept 30 minutes"),
    Meter("cache_write_1h", "token", "input", "input", False, "prompt tokens written to a cache kept 1 hour"),
    Meter("audio_input", "token", "input", "input", False, "audio tokens in the prompt"),
    Meter("cached_audio_input", "token", "input", "audio_input", False, "audio prompt tokens read from the cache"),
    Meter("image_input", "token", "input", "input", False, "image tokens in the prompt"),
    Meter("cached_image_input", "token", "input", "image_input", False, "image prompt tokens read from the cache"),
    Meter("video_input", "token", "input", "input", False, "video tokens in the prompt"),
    Meter("tool_input", "token", "input", "input", False, "prompt tokens that a server-side tool put there"),
    Meter("citation", "token", "input", "input", False, "tokens of cited sources"),
    Meter("output", "token", "output", None, False, "completion tokens, what lies inside them excepted"),
    Meter("reasoning", "token", "output", "output", False, "completion tokens spent thinking"),
    Meter("audio_output", "token", "output", "output", False, "audio tokens in the completion"),
    Meter("image_output", "token", "output", "output", False, "image tokens in the completion"),
    Meter("request", "request", "other", None, True, "one call"),
    Meter("image", "image", "other", None, False, "one image made"),
    Meter("second", "second", "other", None, False, "one second of audio or video"),
    Meter("character", "character", "other", None, False, "one character of text spoken"),
    Meter("page", "page", "other", None, False, "one page read"),
    Meter("annotated_page", "page", "other", None, False, "one page annotated, beside its reading"),
    Meter("search_call", "call", "other", None, False, "one web search made by the vendor"),
    Meter("file_search_call", "call", "other", None, False, "one file search made by the vendor"),
    Meter("code_session", "session", "other", None, False, "one code interpreter container"),
    Meter("social_search_call", "call", "other", None, False, "one search of posts on a social network made by the vendor"),
    Meter("search_query", "query", "other", None, True, "one search query, where a vendor prices it beside the request"),
    Meter("source", "source", "other", None, False, "one source read in a live search"),
    Meter("video_second", "second", "other", None, False, "one second of video made"),
    Meter("text_message", "message", "other", None, False, "one text message in a voice session"),
    Meter("classification", "unit", "other", None, False, "one text classified"),
    Meter("search_unit", "unit", "other", None, False, "one rerank search unit"),
    Meter("input_image", "image", "other", None, True, "one image given to be edited or animated", recorded=False),
    Meter("image_step", "step", "other", None, True, "one step of making an image", recorded=False),
    Meter("pixel", "pixel", "other", None, True, "one pixel made or read", recorded=False),
    Meter("input_video_second", "second", "other", None, True, "one second of video given as a reference", recorded=False),
    Meter("session_second", "second", "other", None, True, "one second of a session that was open", recorded=False),
    Meter("gpu_second", "second", "other", None, True, "one second of a graphics processor, rented or committed", recorded=False),
    Meter("gigabyte_day", "gigabyte-day", "other", None, True, "one gigabyte stored for a day", recorded=False),
    Meter("guardrail_unit", "unit", "other", None, True, "one unit of text that a guardrail read", recorded=False),
    Meter("dbu", "unit", "other", None, True, "one Databricks unit", recorded=False),
    Meter("flat_fee", "request", "other", None, True, "a failed-request policy's flat charge"),
    Meter("conversion", "charge", "other", None, True, "what converting a try's sum at once differs from converting each unit price"),
    Meter("rounding", "charge", "other", None, True, "what the vendor's rounding rule adds to one charge, or takes from it"),
)
_VARIANTS = (
    *(Meter(f"request_{size}", "request", "other", "request", True, f"one call with a {size} search context") for size in SEARCH_CONTEXTS),
    *(Meter(f"image_{size}", "image", "other", "image", False, f"one image of {size}") for size in IMAGE_SIZES),
    *(
        Meter(f"image_{quality}_{size}", "image", "other", f"image_{size}", False, f"one image of {size} in {quality} quality")
        for quality, size in product(IMAGE_QUALITIES, IMAGE_SIZES)
    ),
    *(Meter(f"video_second_{size}", "second", "other", "video_second", False, f"one second of video of {size}") for size in VIDEO_SIZES),
)
METERS: tuple[Meter, ...] = _PLAIN + _VARIANTS
BY_NAME: dict[str, Meter] = {meter.name: meter for meter in METERS}

# Whose price a meter without one of its own has before it is looked for farther out.
BEFORE: dict[str, tuple[str, ...]] = {
    "cache_write_30m": ("cache_write_5m",),
    "cache_write_1h": ("cache_write_5m",),
    "cached_audio_input": ("audio_input", "cached_input"),
    "cached_image_input": ("image_input", "cached_input"),
}


def chain(meter: str) -> tuple[str, ...]:
    """The meters whose price a meter may have, the nearest first: itself, those of BEFORE, the one it lies inside, and so on outwards."""
    inside = BY_NAME[meter].inside
    return tuple(dict.fromkeys((meter, *BEFORE.get(meter, ()), *(chain(inside) if inside else ()))))
