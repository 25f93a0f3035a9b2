"""What a request and its reply say on each surface: the texts that a tokenizer counts, and what no tokenizer can count.

The framing of a chat is the one that OpenAI's cookbook publishes ("How to count tokens with tiktoken"): 3 tokens a message
and 1 a name beside their text, and 3 that prime the reply. It stands for the other surfaces too, whose vendors publish none.
Tools, calls and schemas count as their JSON text. Pictures, sound and files have no text, and what a request only refers to
(an earlier response, a stored prompt) is not in it: both raise Uncountable, for a part of a prompt is no prompt. What a reply
holds beside its text (encrypted reasoning, searches that the vendor made) is named: it ends up in the bill and not in the count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.errors import LedgerError

TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PRIMING = 3

_LINE = re.compile(rb"\r\n|\r|\n")
_KIND_CHARACTERS = 40  # of a kind's name, which is the sender's own


class Uncountable(LedgerError):
    """Why a message cannot be counted; becomes a row, never a failure of the build."""


@dataclass(slots=True)
class Said:
    """The texts of one message in order, the tokens that stand around them, and what was said and is not in the texts."""

    texts: list[str] = field(default_factory=list)
    framing: int = 0  # tokens
    hidden: set[str] = field(default_factory=set)

    def message(self, role: str, *texts: str) -> None:
        """One message of a conversation."""
        self.framing += TOKENS_PER_MESSAGE
        self.texts += [text for text in (role, *texts) if text]

    def schema(self, value: Any) -> None:
        """Tools or a format, as JSON, if there are any."""
        if value:
            self.texts.append(_json(value))


Body = Mapping[str, Any]
Prompt = Callable[[Body], Said]
Reply = Callable[[Iterable[Body]], Said]


# ---- bytes to messages ----


def messages_of(content: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of a reply: its body, the items of its list, the data of each event of its stream, or its lines.

    What is unreadable is passed over: a stream that broke gives what came.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = _items(content) if content.lstrip().startswith(b"[") else None
    if value is not None:
        yield from _dicts([value] if isinstance(value, dict) else value)
        return
    for text in _data(content.removeprefix(b"\xef\xbb\xbf")):
        try:
            event = orjson.loads(text)
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict):
            yield event


def _data(content: bytes) -> Iterator[bytes]:
    """The data of each event of a stream; a line that begins with a brace is a message of its own (NDJSON)."""
    data: list[bytes] = []
    for line in (*_LINE.split(content), b""):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"{"):
            yield line
        elif not line and data:
            yield b"\n".join(data)
            data = []


def _items(content: bytes) -> list[Any]:
    """The whole items of a list that broke: Gemini's own surface streams one unless it is asked for events."""
    text, read, items = content.decode("utf-8", "replace"), json.JSONDecoder().raw_decode, []
    at = text.index("[") + 1
    try:
        while True:
            at += len(text[at:]) - len(text[at:].lstrip(" \r\n\t,"))
            item, at = read(text, at)
            items.append(item)
    except ValueError:
        return items


# ---- prompts ----


def chat_prompt(body: Body) -> Said:
    """Messages and tools of a chat."""
    said = Said(framing=TOKENS_PRIMING)
    for message in _list(body.get("messages"), "messages"):
        if message.get("audio"):
            raise Uncountable("the prompt holds audio, which has no text")
        said.message(str(message.get("role", "")), *_content(message.get("content"), _text_part))
        if isinstance(name := message.get("name"), str):
            said.framing += TOKENS_PER_NAME
            said.texts.append(name)
        said.schema(message.get("tool_calls") or message.get("function_call"))
    said.schema(body.get("tools") or body.get("functions"))
    said.schema(_place(body, "response_format", "json_schema"))
    return said


def plain_prompt(value: Any) -> Said:
    """A text, tokens that the client made itself, or a list of either."""
    said = Said()
    if isinstance(value, str):
        said.texts.append(value)
    elif isinstance(value, list) and all(isinstance(item, int) for item in value):
        said.framing = len(value)
    elif isinstance(value, list):
        for one in map(plain_prompt, value):
            said.texts += one.texts
            said.framing += one.framing
    else:
        raise Uncountable("the prompt is neither text nor tokens")
    return said


def responses_prompt(body: Body) -> Said:
    """Instructions, input items and tools of a response, asked for over HTTP or in a WebSocket's frame."""
    _refuse_references(body, "previous_response_id", "conversation", "prompt")
    said = Said(framing=TOKENS_PRIMING)
    if isinstance(instructions := body.get("instructions"), str):
        said.message("developer", instructions)
    given = body.get("input")
    if isinstance(given, str):
        said.message("user", given)
    else:
        for item in _list(given, "input items"):
            _input_item(said, item)
    said.schema(body.get("tools"))
    said.schema(_place(body, "text", "format", "schema"))
    return said


def _input_item(said: Said, item: Body) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        said.message(str(item.get("role", "")), *_content(item.get("content"), _text_part))
    elif kind in ("function_call", "custom_tool_call"):
        said.message(*(str(item.get(name) or "") for name in ("name", "arguments", "input")))
    elif kind in ("function_call_output", "custom_tool_call_output"):
        said.message("tool", *_content(item.get("output"), _text_part))
    elif kind == "reasoning" and item.get("content") and not item.get("encrypted_content"):
        said.message("assistant", *_content(item["content"], _text_part))
    else:
        raise _without_text("the prompt", kind)


def messages_prompt(body: Body) -> Said:
    """System, messages and tools of Anthropic's surface."""
    said = Said(framing=TOKENS_PRIMING)
    if body.get("system"):
        said.message("system", *_content(body["system"], _prompt_block))
    for message in _list(body.get("messages"), "messages"):
        said.message(str(message.get("role", "")), *_content(message.get("content"), _prompt_block))
    said.schema(body.get("tools"))
    return said


def _prompt_block(block: Body) -> str:
    kind = block.get("type")
    if kind in ("tool_use", "server_tool_use"):
        return f"{block.get('name')}{_json(block.get('input'))}"
    if kind == "tool_result":
        return "".join(_content(block.get("content"), _prompt_block))
    if kind == "document" and _place(block, "source", "type") == "text":
        return str(_place(block, "source", "data"))
    text = block.get("thinking") if kind == "thinking" else block.get("text")
    if not isinstance(text, str):
        raise _without_text("the prompt", kind)
    return text


def gemini_prompt(body: Body) -> Said:
    """System instruction, contents and tools of Gemini's own surface."""
    _refuse_references(body, "cachedContent")
    said = Said(framing=TOKENS_PRIMING)
    system = body.get("systemInstruction") or body.get("system_instruction")
    for content in ([system] if isinstance(system, dict) else []) + _list(body.get("contents"), "contents"):
        said.message(str(content.get("role", "")), *(_gemini_part(part, "the prompt") for part in _dicts(content.get("parts"))))
    said.schema(body.get("tools"))
    return said


def _gemini_part(part: Body, where: str) -> str:
    if isinstance(text := part.get("text"), str):
        return text
    for kind, members in _GEMINI_PARTS.items():
        if isinstance(value := part.get(kind), dict):
            return "".join(text if isinstance(text := value.get(name), str) else _json(text) for name in members)
    raise _without_text(where, next((name for name in part if name != "thoughtSignature"), None))


_GEMINI_PARTS = {
    "functionCall": ("name", "args"),
    "functionResponse": ("name", "response"),
    "executableCode": ("code",),
    "codeExecutionResult": ("output",),
}


# ---- replies ----


class _Places:
    """Texts by the place in the reply where they stand: deltas are joined before they are counted, a whole text replaces them."""

    def __init__(self) -> None:
        self._texts: dict[tuple[object, ...], list[str]] = {}

    def add(self, place: tuple[object, ...], text: Any) -> None:
        if isinstance(text, str) and text:
            self._texts.setdefault(place, []).append(text)

    def put(self, place: tuple[object, ...], text: Any) -> None:
        if isinstance(text, str) and text:
            self._texts[place] = [text]

    def said(self, hidden: Iterable[str] = ()) -> Said:
        return Said(["".join(parts) for parts in self._texts.values()], hidden=set(hidden))


_SPOKEN = ("content", "refusal", "reasoning_content", "reasoning")


def choices_reply(messages: Iterable[Body]) -> Said:
    """What the choices of a chat or a completion say."""
    places, hidden = _Places(), set()
    for choice in (choice for message in messages for choice in _dicts(message.get("choices"))):
        index = choice.get("index") or 0
        places.add((index, "text"), choice.get("text"))
        for name, take in (("delta", places.add), ("message", places.put)):
            part = choice.get(name)
            if not isinstance(part, dict):
                continue
            for kind in ("audio", "images"):
                if part.get(kind):
                    raise _without_text("the reply", kind)
            for member in _SPOKEN:
                take((index, member), _spoken(part.get(member)))
            for call in _dicts(part.get("tool_calls")):
                for member in ("name", "arguments"):
                    take((index, "call", call.get("index", call.get("id")), member), _place(call, "function", member))
            if any(str(detail.get("type")).endswith(".encrypted") for detail in _dicts(part.get("reasoning_details"))):
                hidden.add("encrypted reasoning")
    return places.said(hidden)


def _spoken(value: Any) -> str:
    """A text, or the texts of parts; Mistral thinks in parts of parts."""
    if isinstance(value, str) or value is None:
        return value or ""
    return "".join(_spoken(part.get("thinking")) or _text_part(part, "the reply") for part in _dicts(value))


def responses_reply(messages: Iterable[Body]) -> Said:
    """What the output items of a response say: those of its last object, else what its events told so far."""
    places, hidden = _Places(), set()
    whole: list[dict[str, Any]] = []
    thinking: set[object] = set()
    thought: set[object] = set()
    for message in messages:
        inner = message["response"] if isinstance(message.get("response"), dict) else message
        whole = _dicts(inner.get("output")) or whole
        kind = str(message.get("type"))
        item = message.get("item")
        where = message.get("output_index", message.get("item_id"))
        if kind.startswith("response.output_item.") and isinstance(item, dict):
            if item.get("type") == "reasoning":
                thinking.add(where)
            elif not _is_plain(item):
                hidden.add(_kind(item.get("type")))
            places.put((where, "name"), item.get("name"))
        elif kind == "response.reasoning_summary_text.delta":
            thinking.add(where)
        elif kind.endswith("audio.delta"):
            raise _without_text("the reply", "audio")
        elif kind.endswith(".delta"):
            thought |= {where} if kind == "response.reasoning_text.delta" else set()
            places.add((where, kind, message.get("content_index")), message.get("delta"))
    if whole:
        return _output_items(whole)
    return places.said(hidden | ({"reasoning"} if thinking - thought else set()))


def _output_items(items: Iterable[Body]) -> Said:
    said = Said()
    for item in items:
        kind = item.get("type")
        if kind == "reasoning" and not item.get("content"):
            said.hidden.add("reasoning")
        elif not _is_plain(item):
            said.hidden.add(_kind(kind))
        said.texts += [item[name] for name in ("name", "arguments", "input") if isinstance(item.get(name), str)]
        said.texts += _content(item.get("content"), lambda part: _text_part(part, "the reply"))
    return said


def _is_plain(item: Body) -> bool:
    """Whether an output item is all text that the model wrote; what a vendor's own tool did has tokens that nobody sees."""
    return item.get("type") in ("message", "function_call", "custom_tool_call", "reasoning")


def messages_reply(messages: Iterable[Body]) -> Said:
    """What the content blocks of Anthropic's surface say."""
    places, hidden = _Places(), set()
    for message in messages:
        started = message.get("content_block")
        blocks = [(message.get("index"), started)] if isinstance(started, dict) else enumerate(_dicts(message.get("content")))
        for index, block in blocks:
            kind = block.get("type")
            if kind not in ("text", "thinking", "tool_use"):
                hidden.add(_kind(kind))
            for name in ("name", "text", "thinking"):
                places.add((index, name), block.get(name))
            if block.get("input"):
                places.put((index, "input"), _json(block["input"]))
        delta = message.get("delta")
        if message.get("type") == "content_block_delta" and isinstance(delta, dict):
            for name, member in (("text", "text"), ("thinking", "thinking"), ("input", "partial_json")):
                places.add((message.get("index"), name), delta.get(member))
    return places.said(hidden)


def gemini_reply(messages: Iterable[Body]) -> Said:
    """What the candidates of Gemini's own surface say."""
    places, hidden = _Places(), set()
    for number, message in enumerate(messages):
        for candidate in _dicts(message.get("candidates")):
            for part in _dicts(_place(candidate, "content", "parts")):
                if part.get("thoughtSignature"):
                    hidden.add("reasoning")
                kind = "text" if "text" in part else number
                places.add((candidate.get("index"), kind, part.get("thought")), _gemini_part(part, "the reply"))
    return places.said(hidden)


@dataclass(frozen=True, slots=True)
class Surface:
    """How one endpoint's prompt is read, and its reply where that is text."""

    prompt: Prompt
    reply: Reply | None


SURFACES: dict[str, Surface] = {
    "chat.completions": Surface(chat_prompt, choices_reply),
    "completions": Surface(lambda body: plain_prompt(body.get("prompt", "")), choices_reply),
    "embeddings": Surface(lambda body: plain_prompt(body.get("input")), None),
    "responses": Surface(responses_prompt, responses_reply),
    "messages": Surface(messages_prompt, messages_reply),
    "gemini.generate": Surface(gemini_prompt, gemini_reply),
}


# ---- members ----


def _content(content: Any, text_of: Callable[[Body], str]) -> list[str]:
    """The text of a content that is a text, nothing, or a list of texts and parts."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        raise Uncountable("a message's content is neither text nor a list of parts")
    return ["".join(part if isinstance(part, str) else text_of(part) for part in content)]


def _text_part(part: Body, where: str = "the prompt") -> str:
    text = part.get("text", part.get("refusal"))
    if not isinstance(text, str):
        raise _without_text(where, part.get("type"))
    return text


def _refuse_references(body: Body, *names: str) -> None:
    for name in names:
        if body.get(name):
            raise Uncountable(f"the prompt goes on from {name}, whose text is not in the request")


def _without_text(where: str, kind: object) -> Uncountable:
    return Uncountable(f"{where} holds {_kind(kind)}, which has no text")


def _kind(kind: object) -> str:
    return kind[:_KIND_CHARACTERS] if isinstance(kind, str) else "a part of no kind"


def _list(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Uncountable(f"the request has no list of {what}")
    return value


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _place(value: Any, *steps: str) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
