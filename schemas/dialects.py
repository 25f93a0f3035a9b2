"""Where vendors put things in a message: tables of places, no meaning. What the numbers mean is the ETL's affair."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

# Every place where some vendor reports usage. A name is a member, an int an index.
USAGE_PLACES: dict[str, tuple[str | int, ...]] = {
    "usage": ("usage",),
    "choices[0].usage": ("choices", 0, "usage"),
    "x_groq.usage": ("x_groq", "usage"),
    "response.usage": ("response", "usage"),
    "message.usage": ("message", "usage"),
    "result.usage": ("result", "usage"),
    "usageMetadata": ("usageMetadata",),
    "usage_info": ("usage_info",),
    "meta.billed_units": ("meta", "billed_units"),
    "delta.usage": ("delta", "usage"),
    "timings": ("timings",),
    "amazon-bedrock-invocationMetrics": ("amazon-bedrock-invocationMetrics",),
}
# Ollama's own surface counts at the top of its last line; these members together are its usage object.
BODY_PLACE = "(body)"
BODY_COUNTS = ("prompt_eval_count", "eval_count", "prompt_eval_duration", "eval_duration", "load_duration", "total_duration")
# A quick look at the bytes that spares almost every event the walk through the table.
USAGE_HINTS = (b'"usage', b'"billed_units"', b'"timings"', b'eval_count"', b"invocationMetrics")
# The same for the places where a gateway tells about its route; such an event need not be the first, nor carry usage.
FACT_HINTS = (b'"provider_metadata"', b'"providerMetadata"', b'"extra_fields"', b'"openrouter_metadata"')
# And for a model's refusal in words.
REFUSAL_HINT = b"refusal"

# Where the message itself lies when an event wraps it.
WRAPPERS = ("response", "message", "result")

# Typed events after which nothing more is owed to the client.
TERMINAL_TYPES = frozenset(
    """response.completed response.incomplete response.failed message_stop image_generation.completed
    image_edit.completed speech.audio.done transcript.text.done response.done
    conversation.item.input_audio_transcription.completed conversation.item.input_audio_transcription.failed message-end""".split()
)
TERMINAL_EVENTS = {b"metadata": "metrics"}  # the same, where only the event's name and a member say it: Converse
DONE = b"[DONE]"

# Members of a request body that say who, what or at which price; prompts and files are not among them.
REQUEST_FACTS = frozenset(
    """background client_metadata conversation dimensions encoding_format frequency_penalty inference_geo
    max_completion_tokens max_output_tokens max_tokens metadata models modalities n previous_response_id
    litellm_session_id prompt_cache_key prompt_cache_retention provider quality reasoning reasoning_effort response_format_type
    safety_identifier seconds service_tier session_id size speed store stream stream_options tags temperature top_p
    trace user voice usage fallbacks num_retries""".split()
)
# Members of a response that tell about route, tier or size; its text is not among them.
RESPONSE_FACTS = frozenset(
    """background base_resp created duration error_file_id extra_fields generation_id inference_geo object openrouter_metadata
    output_file_id output_format processing_status provider quality request_counts seconds size speed status system_fingerprint usage_breakdown
    incomplete_details status_details""".split()
)
GATEWAY_FACTS = frozenset(("extra_fields", "openrouter_metadata"))
# Of a member that also carries text, headers or keys: what may be kept of it.
PARTS = {
    "extra_fields": frozenset(
        """provider original_model_requested resolved_model_used latency chunk_index request_type cache_debug fallback_index""".split()
    ),
}
# Where Vercel's gateway puts its account of the route; kept as `gateway`.
GATEWAY_PLACES: tuple[tuple[str | int, ...], ...] = tuple(
    (*where, name, "gateway")
    for where in ((), ("choices", 0, "message"), ("choices", 0, "delta"))
    for name in ("provider_metadata", "providerMetadata")
)
MAX_FACTS_BYTES = 16 << 10


# Where the model stands in a path: Azure's deployments, Gemini's and Bedrock's own surfaces.
_PATH_MODELS = re.compile(r"/deployments/([^/]+)/|/models/([^/]+):[a-zA-Z]+$|/model/([^/]+)/(?:converse|invoke)")
# Text fields of a multipart form that are recorded as members of a body are.
FORM_FACTS = ("n", "quality", "response_format", "seconds", "service_tier", "size", "stream", "user")


@lru_cache(maxsize=1024)
def path_model(path: str) -> str | None:
    """The model that a path names, or None."""
    found = _PATH_MODELS.search(path)
    return next((unquote(name) for name in found.groups() if name), None) if found else None


def place(message: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path, or None."""
    value = message
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and len(value) > step:
            value = value[step]
        else:
            return None
    return value


def facts(message: Mapping[str, Any], allowed: frozenset[str]) -> dict[str, Any]:
    """The allow-listed members of a message, each left out if it is null or bulky."""
    kept = {}
    for name, value in message.items():
        if name not in allowed:
            continue
        if name in PARTS:
            value = {part: value[part] for part in PARTS[name] & value.keys()} if isinstance(value, dict) else None
        if value is not None and (not isinstance(value, dict | list | str) or len(orjson.dumps(value)) <= MAX_FACTS_BYTES):
            kept[name] = value
    return kept


def gateway_facts(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a gateway beyond ours tells about its route, wherever in the message it stands."""
    told = next((found for path in GATEWAY_PLACES if isinstance(found := place(message, path), dict)), None)
    kept = {"gateway": told} if told and len(orjson.dumps(told)) <= MAX_FACTS_BYTES else {}
    return kept | facts(message, GATEWAY_FACTS)


def request_facts(message: Mapping[str, Any]) -> dict[str, Any]:
    """The allow-listed members of a request; a realtime `response.create` frame wraps them."""
    inner = message.get("response")
    kept = facts(inner if message.get("type") == "response.create" and isinstance(inner, dict) else message, REQUEST_FACTS)
    if "voice" in message and isinstance(message.get("input"), str):
        kept["input_characters"] = len(message["input"])  # speech is billed by the character, and its answer tells none
    return kept


def response_facts(message: Mapping[str, Any]) -> dict[str, Any]:
    """The allow-listed members of a response, and what is counted in it: items that a tool made, containers, images."""
    kept = facts(message, RESPONSE_FACTS)
    items = [item for item in _dicts(message.get("output")) if str(item.get("type")).endswith("_call")]
    if items:
        kept["items"] = dict(sorted(Counter(map(_item_name, items)).items()))
        containers = {item.get("container_id") or item.get("id") for item in items if item.get("type") == "code_interpreter_call"}
        shells = (place(item, ("environment", "container_id")) for item in items if item.get("type") == "shell_call")
        containers.update(shell for shell in shells if shell)  # the client's own shell has none
        if containers:
            kept["code_containers"] = len(containers)
    images = [item for item in _dicts(message.get("data")) if "b64_json" in item or "url" in item]
    if images:
        kept["images"] = len(images)
    return kept


def _item_name(item: Mapping[str, Any]) -> str:
    """type, its action if it names one, and its status where that is not the ordinary one: `web_search_call.search`."""
    action = place(item, ("action", "type"))
    status = item.get("status")
    words = [item["type"], action if isinstance(action, str) else "", "" if status in (None, "completed") else str(status)]
    return ".".join(word for word in words if word)[:64]


def gemini_chunks(message: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that Gemini's own surface sends as one array, unless it is asked for SSE."""
    return [part for part in _dicts(message) if "candidates" in part or "usageMetadata" in part]


def error_of(message: Mapping[str, Any]) -> Any:
    """The error that a message carries, whichever way the vendor says it; None if there is none."""
    for path in _ERROR_PLACES:
        if path[0] in message and (error := place(message, path)):
            return error
    base = message.get("base_resp")
    return base if isinstance(base, dict) and base.get("status_code") not in (None, 0) else None


_ERROR_PLACES = (("error",), ("status_details", "error"), ("x_groq", "error"))


def finish_reasons(message: Mapping[str, Any]) -> list[str]:
    """Why the vendor says it stopped: chat and completions, Messages, Responses, Gemini."""
    reasons = [choice.get("finish_reason") for choice in _dicts(message.get("choices"))]
    reasons += [candidate.get("finishReason") for candidate in _dicts(message.get("candidates"))]
    reasons += [place(message, path) for path in _REASON_PLACES if path[0] in message]
    return [reason for reason in reasons if isinstance(reason, str)]


_REASON_PLACES = (
    *(("stop_reason",), ("stopReason",), ("delta", "stop_reason"), ("delta", "finish_reason"), ("incomplete_details", "reason")),
    *(("status_details", "reason"), ("promptFeedback", "blockReason")),
)


REFUSAL = "refusal"  # as a reason to stop: Anthropic's own word for it


def refuses(message: Mapping[str, Any]) -> bool:
    """Whether the model refuses in words. OpenAI's then stop as they do after any answer: chat in a member, Responses in a part."""
    for choice in _dicts(message.get("choices")):
        if place(choice, ("delta", "refusal")) or place(choice, ("message", "refusal")):
            return True
    if str(message.get("type")).startswith("response.refusal."):
        return True
    return any(part.get("type") == "refusal" for item in _dicts(message.get("output")) for part in _dicts(item.get("content")))


_DELTA_MEMBERS = tuple(
    """content tool_calls function_call refusal audio reasoning reasoning_content reasoning_details thinking_blocks text images""".split()
)


def has_output(message: Mapping[str, Any]) -> bool:
    """Whether a body or an event carries output: text, a tool call, audio, an image, a vector."""
    for choice in _dicts(message.get("choices")):
        if choice.get("text"):
            return True
        for part in (choice.get("delta"), choice.get("message")):
            if isinstance(part, dict) and any(part.get(name) for name in _DELTA_MEMBERS):
                return True
    if "contentBlockIndex" in message and message.get("delta"):  # Converse, as a stream and whole
        return True
    if isinstance(message.get("output"), dict) and place(message, ("output", "message", "content")):
        return True
    vectors = message.get("embeddings")
    if isinstance(vectors, dict) and any(vectors.values()):  # Cohere's: a list for each type that was asked for
        return True
    if any(map(_candidate_has_output, _dicts(message.get("candidates")))):
        return True
    kind = message.get("type")
    if isinstance(kind, str) and (kind.endswith(".delta") or kind in _OUTPUT_TYPES):
        return True
    return any(isinstance(value := message.get(name), str | list) and bool(value) for name in _OUTPUT_MEMBERS)


_OUTPUT_TYPES = frozenset(
    """content_block_delta content-delta tool-call-start tool-call-delta tool-plan-delta image_generation.partial_image image_generation.completed image_edit.completed
    conversation.item.input_audio_transcription.completed""".split()
)
_OUTPUT_MEMBERS = (
    """output content data text results b64_json pages response embeddings classifications thinking tool_calls tool_plan""".split()
)


def _candidate_has_output(candidate: Mapping[str, Any]) -> bool:
    """Of Gemini's candidates one that was blocked stands there too, without content or with empty parts."""
    parts = _dicts(place(candidate, ("content", "parts")))
    return any(value for part in parts for name, value in part.items() if name not in ("thought", "thoughtSignature"))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
