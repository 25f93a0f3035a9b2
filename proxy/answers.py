"""The proxy's own answers, in the shape that every OpenAI client understands."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import orjson

HEADERS = {"Content-Type": "application/json"}
REASONS = {408: "request_timeout", 431: "head_too_large", 503: "overloaded"}


def body(message: str, kind: str, code: str) -> bytes:
    """An error body as OpenAI's: `{"error": {message, type, param, code}}`."""
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def upstream_failed(status_code: int, message: str) -> bytes:
    """The body of a 4xx or 5xx that the forward door answers itself."""
    if status_code >= 500:
        return body(message, "upstream_error", "upstream_timeout" if status_code == 504 else "upstream_unreachable")
    return body(message, "invalid_request_error", "bad_request")


def raw(status: int, message: str, headers: Mapping[str, str] = MappingProxyType({}), code: str | None = None) -> bytes:
    """A whole HTTP/1 answer of ours, after which the connection closes."""
    content = body(message, "invalid_request_error" if status < 500 else "server_error", code or REASONS.get(status, "bad_request"))
    fields = {**HEADERS, "Content-Length": str(len(content)), "Connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + content
