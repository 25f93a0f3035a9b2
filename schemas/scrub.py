"""What has the shape of a key, in whatever text a vendor or a client sends, is replaced before it is kept."""

from __future__ import annotations

import re
from functools import lru_cache

MAX_TEXT = 500

# How vendors' keys look: a short prefix with its separator, or Google's, Amazon's, GitHub's, or a JSON web token.
_KEY_SHAPES = r"\b(?:(?i:sk|pk|rk|ak|key|gsk|xai|ghp|gho|hf|glpat)[-_]|AIza|AKIA|github_pat_|ya29\.|eyJ)[A-Za-z0-9*][A-Za-z0-9_\-.*]{10,}"
_KEY_IN_NAME = re.compile(_KEY_SHAPES)
_SECRETS_IN_TEXT = re.compile(
    r"(?i:\b(?:bearer|basic)\s+[^\s\"',;]{4,})"  # authorization values
    rf"|{_KEY_SHAPES}"
    r"|(?<![A-Za-z0-9])[A-Za-z0-9_\-]{40,}(?![A-Za-z0-9])"  # long opaque runs
)


def storable(text: str) -> str:
    """`text` as valid Unicode: what was no UTF-8 becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def scrub(text: str, limit: int = MAX_TEXT) -> str:
    """One line of free text with everything that looks like a credential replaced by ***."""
    line = " ".join(storable(text).split())
    return _SECRETS_IN_TEXT.sub("***", line[: limit * 2])[:limit]


@lru_cache(maxsize=1024)  # paths and models come again and again
def identifier(text: str, limit: int = 256) -> str:
    """An id, a model's name or a path: kept whole however long and opaque it is, unless it has the shape of a key."""
    return _KEY_IN_NAME.sub("***", storable(text)[:limit])


def scrub_json(value: object) -> object:
    """A JSON value with every string in it scrubbed."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(str(name)): scrub_json(member) for name, member in value.items()}
    if isinstance(value, list):
        return [scrub_json(member) for member in value]
    return value
