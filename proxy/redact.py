"""What may touch the disk: allow-lists of headers and members; what looks like a key is scrubbed (schemas/scrub.py).

Allow-lists, not block-lists: a header or member that nobody named here is not recorded. Credentials are known by
their keyed fingerprint only (schemas/fingerprint.py).
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
import orjson

from schemas.records import Attempt, JsonText, Request, Response
from schemas.scrub import identifier, scrub, storable

Headers = Iterable[tuple[str, str]]

REQUEST_HEADERS = frozenset(
    """accept accept-encoding accept-language baggage content-encoding content-length content-type expect
    idempotency-key openai-beta openai-organization openai-project originator session-id session_id thread-id
    conversation_id http-referer referer traceparent tracestate transfer-encoding user-agent x-client-request-id
    x-request-id x-title x-session-id x-parent-session-id x-session-affinity x-should-retry anthropic-version
    anthropic-beta x-ms-client-request-id""".split()
)
REQUEST_PREFIXES = (
    "x-ledger-",
    "x-stainless-",
    "x-litellm-",
    "x-openrouter-",
    "helicone-property-",
    "helicone-user-",
    "helicone-session-",
    "helicone-request-",
    "helicone-cache-",
    "helicone-retry-",
    "x-portkey-trace-",
    "x-portkey-metadata",
    "x-portkey-provider",
    "cf-aig-metadata",
    "cf-aig-cache-",
    "cf-aig-skip-",
    "x-codex-",
    "x-openai-subagent",
)
# Addresses and words: what a query calls a secret is one here too.
_FREE_TEXT = frozenset("baggage http-referer originator referer user-agent x-openrouter-title x-title".split())
# Ids stay whole, whatever their shape: requests, retries and runs are grouped by them.
_ID_NAME = re.compile(r".*[-_]id|idempotency-key|trace(?:parent|state)|.*-affinity|x-ledger-run")
# By convention an agent tool names its session in x-<vendor>-session-id; that it groups requests is why it is kept.
_SESSION_NAME = re.compile(r"x-[a-z0-9]+(?:-[a-z0-9]+)*-session-id")
RESPONSE_HEADERS = frozenset(
    """age apim-request-id cache-control cf-ray content-encoding content-length content-type date helicone-cache
    helicone-id helicone-status helicone-fallback-index openai-model openai-organization openai-processing-ms
    openai-project openai-version request-id retry-after retry-after-ms server server-timing transfer-encoding via
    x-cache-status x-client-request-id x-generation-id x-model-router-selected-model x-ms-client-request-id
    x-ms-deployment-name x-ms-region x-ms-request-id x-ms-retry-after-ms x-ms-served-model x-new-api-version
    x-oneapi-request-id x-request-id x-served-by x-should-retry x-upstream-request-id x-amzn-requestid
    azureml-model-session x-ledger-request-id""".split()
)
RESPONSE_PREFIXES = (
    "anthropic-ratelimit-",
    "cf-aig-",
    "fireworks-",
    "llm_provider-x-request-id",
    "ngrok-aig-",
    "x-ai-eg-",
    "x-amzn-bedrock-",
    "x-bifrost-",
    "x-envoy-upstream-",
    "x-kong-",
    "x-litellm-",
    "x-nr-",
    "x-portkey-",
    "x-ratelimit-",
    "anthropic-organization-",
)
# Names that hide among the prefixes above but carry credentials or budgets of a person's key.
_SECRET_NAME = re.compile(r"(?i)api[-_]?key|auth|(?<!first-)token(?!s|-count)|secret|password|cookie|signature|virtual-key|^x-litellm-key-")

_CREDENTIAL_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
# A browser cannot set headers on a WebSocket, so vendors take the key as one of the subprotocols that it offers.
SECRET_SUBPROTOCOLS = ("openai-insecure-api-key.", "xai-client-secret.")
_KEY_PARAMETERS = frozenset(
    """key api_key api-key apikey access_token token auth authorization sig signature secret client_secret password code x-api-key
    x-goog-api-key subscription-key subscription_key ocp-apim-subscription-key api_token""".split()
)
# These are secret too, but another one in each request, or none that names its bearer.
_SECRET_PARAMETERS = _KEY_PARAMETERS | frozenset(
    """x-amz-signature x-amz-credential x-amz-security-token awsaccesskeyid x-goog-signature x-goog-credential jwt id_token
    refresh_token session_token bearer credential credentials passwd pwd""".split()
)

_USER_IN_URL = re.compile(r"//[^/@\s]+@")
MAX_HEADER_VALUE = 4096
LEAST_CREDENTIAL = 16  # characters

Kept = TypeVar("Kept", Request, Attempt, Response)


# What is kept of a header's value, by its name; None: nothing. Of the few names that a proxy meets, most come with each message.
@lru_cache(maxsize=1024)
def _of_request(name: str) -> Callable[[str], str] | None:
    if not _allowed(name, REQUEST_HEADERS, REQUEST_PREFIXES) and not _SESSION_NAME.fullmatch(name):
        return None
    if _ID_NAME.fullmatch(name):
        return _whole_id
    return _free_text if name in _FREE_TEXT else _header_value


@lru_cache(maxsize=1024)
def _of_response(name: str) -> Callable[[str], str] | None:
    return _header_value if _allowed(name, RESPONSE_HEADERS, RESPONSE_PREFIXES) else None


def _allowed(name: str, names: frozenset[str], prefixes: tuple[str, ...]) -> bool:
    return (name in names or name.startswith(prefixes)) and not _SECRET_NAME.search(name)


def _kept(headers: Headers, rule: Callable[[str], Callable[[str], str] | None]) -> JsonText:
    kept: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        written = rule(lower)
        if written is not None:
            text = written(value)
            kept[lower] = f"{kept[lower]}, {text}" if lower in kept else text
    return JsonText(orjson.dumps(kept).decode())


def _whole_id(value: str) -> str:
    return storable(value[:MAX_HEADER_VALUE])


def _free_text(value: str) -> str:
    """Addresses and words, without the secrets of a URL."""
    start, mark, rest = value.partition("?")
    return _header_value(_USER_IN_URL.sub("//***@", f"{start}?{query(rest) or ''}" if mark else start))


def _header_value(value: str) -> str:
    """Without keys: a vendor may echo one."""
    return identifier(value, limit=MAX_HEADER_VALUE)


def request_headers(headers: Headers) -> JsonText:
    """The allow-listed request headers as a JSON object, lower-case names, repeated ones joined with a comma."""
    return _kept(headers, _of_request)


def response_headers(headers: Headers) -> JsonText:
    """The allow-listed response headers as a JSON object, lower-case names, repeated ones joined with a comma."""
    return _kept(headers, _of_response)


def credential(headers: Headers, query: str) -> tuple[str, str] | None:
    """The client's credential (bare, without its scheme) and where it stood; never to be stored."""
    found: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _CREDENTIAL_HEADERS and value.strip():
            found.setdefault(lower, value.strip())
        if lower == "sec-websocket-protocol":
            for offer in (part.strip() for part in value.split(",")):
                secret = next((offer[len(prefix) :] for prefix in SECRET_SUBPROTOCOLS if offer.startswith(prefix)), "")
                if secret:
                    found.setdefault(lower, secret)
    for name in _CREDENTIAL_HEADERS:
        if name in found:
            scheme, _, rest = found[name].partition(" ")
            bare = rest.strip() if name == "authorization" and scheme.lower() in ("bearer", "basic") and rest else found[name]
            return bare, name
    if "sec-websocket-protocol" in found:
        return found["sec-websocket-protocol"], "sec-websocket-protocol"
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote(name).lower() in _KEY_PARAMETERS and value:
            return unquote(value), "query"
    return None


def query(text: str) -> str | None:
    """A query string with the values of credential-like parameters replaced; null for an empty one."""
    if not text:
        return None
    pairs = []
    for pair in text.split("&"):
        name, equals, _ = pair.partition("=")
        pairs.append(f"{name}=***" if equals and unquote(name).lower() in _SECRET_PARAMETERS else pair)
    return scrub("&".join(pairs), limit=MAX_HEADER_VALUE)


def without(record: Kept, credentials: Sequence[str]) -> Kept:
    """A record in whose texts no credential stands that was used, whatever its shape: a vendor may echo it anywhere.

    Short ones are left: they are no secrets but words, such as `none`, and would be found in other words.
    """
    names, texts_of = _TEXTS[record.kind]
    texts = texts_of(record)
    whole = "\0".join(filter(None, texts))
    long = [credential for credential in credentials if len(credential) >= LEAST_CREDENTIAL and credential in whole]
    if not long:
        return record
    changed: dict[str, Any] = {}
    for name, text in zip(names, texts, strict=True):
        for credential in long:
            if text and credential in text:
                changed[name] = text = text.replace(credential, "***")
    return msgspec.structs.replace(record, **changed)


def _texts(cls: type[Request | Attempt | Response]) -> tuple[list[str], Callable[[Any], tuple[str | None, ...]]]:
    """The fields of a kind of record that hold text, and what reads them all at once."""
    hints = typing.get_type_hints(cls)
    names = [name for name in cls.__struct_fields__ if hints[name] in (str, str | None, JsonText, JsonText | None)]
    return names, attrgetter(*names)


_TEXTS = {cls.kind: _texts(cls) for cls in (Request, Attempt, Response)}
