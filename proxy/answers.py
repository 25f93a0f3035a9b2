"""The proxy's own answers, in the shape that every OpenAI client understands."""

from __future__ import annotations

import orjson

HEADERS = {"Content-Type": "application/json"}


def body(message: str, kind: str, code: str) -> bytes:
    """An error body as OpenAI's: `{"error": {message, type, param, code}}`."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def upstream_failed(status_code: int, message: str) -> bytes:
    """The body of a 4xx or 5xx that the forward door answers itself."""
    if status_code >= 500:
        return body(message, "upstream_error", "upstream_unreachable")
    return body(message, "invalid_request_error", "bad_request")
