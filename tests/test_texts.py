"""What requests and replies say on each surface: the texts that are counted, and what is named because it cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from etl.texts import SURFACES, Said, Uncountable, messages_of

TOOL = {"name": "look", "parameters": {"type": "object"}}
TOOL_JSON = '[{"name":"look","parameters":{"type":"object"}}]'


def events(*objects: dict[str, Any]) -> bytes:
    """A stream of events, the last of them cut in two."""
    return b"".join(b"event: x\ndata: " + json.dumps(one).encode() + b"\n\n" for one in objects) + b'data: {"type": "br'


def prompt(endpoint: str, body: dict[str, Any]) -> Said:
    return SURFACES[endpoint].prompt(body)


def reply(endpoint: str, content: bytes) -> Said:
    read = SURFACES[endpoint].reply
    assert read is not None
    return read(messages_of(content))


@pytest.mark.parametrize(
    ("endpoint", "body", "texts", "framing"),
    [
        # 3 that prime the reply, 3 a message, 1 a name
        ("chat.completions", {"messages": [{"role": "user", "name": "ada", "content": "hi"}]}, ["user", "hi", "ada"], 7),
        (
            "chat.completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}], "tools": [TOOL]},
            ["user", "ab", TOOL_JSON],
            6,
        ),
        ("completions", {"prompt": ["one", [5, 6, 7]]}, ["one"], 3),
        ("embeddings", {"input": "one"}, ["one"], 0),
        # 3 + 3 for the instructions + 3 for the input
        ("responses", {"instructions": "be brief", "input": "hi", "tools": [TOOL]}, ["developer", "be brief", "user", "hi", TOOL_JSON], 9),
        (
            "responses",
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": "seen"},
                    {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                ]
            },
            ["user", "hi", "look", "{}", "tool", "seen", "assistant", "hm"],
            15,
        ),
        (
            "messages",
            {
                "system": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief", "cache_control": {"type": "ephemeral"}}],
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {"at": 1}}]},
                    {
                        "role": "user",
                        "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "seen"}]}],
                    },
                ],
                "tools": [TOOL],
            },
            ["system", "be brief", "user", "hi", "assistant", 'look{"at":1}', "user", "seen", TOOL_JSON],
            15,
        ),
        (
            "gemini.generate",
            {
                "systemInstruction": {"parts": [{"text": "be brief"}]},
                "contents": [
                    {"role": "user", "parts": [{"text": "hi"}]},
                    {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {"at": 1}}}]},
                ],
            },
            ["be brief", "user", "hi", "model", 'look{"at":1}'],
            12,
        ),
    ],
)
def test_a_prompt_is_its_texts_and_what_frames_them(endpoint: str, body: dict[str, Any], texts: list[str], framing: int) -> None:
    """Every text in order, and the tokens that stand around the messages."""
    said = prompt(endpoint, body)
    assert (said.texts, said.framing, said.hidden) == (texts, framing, set())


@pytest.mark.parametrize(
    ("endpoint", "body", "words"),
    [
        ("chat.completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "the prompt holds image_url"),
        ("chat.completions", {"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "the prompt holds audio"),
        ("chat.completions", {"prompt": "x"}, "no list of messages"),
        ("completions", {"prompt": {"a": 1}}, "neither text nor tokens"),
        ("responses", {"input": "x", "previous_response_id": "resp_1"}, "goes on from previous_response_id"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "goes on from prompt"),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "holds input_file"),
        ("responses", {"input": [{"type": "reasoning", "encrypted_content": "AA", "summary": []}]}, "holds reasoning"),
        ("responses", {"input": [{"type": "item_reference", "id": "i"}]}, "holds item_reference"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "holds image"),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "redacted_thinking", "data": "AA"}]}]}, "redacted_thinking"),
        ("gemini.generate", {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png"}}]}]}, "holds inlineData"),
        ("gemini.generate", {"contents": [], "cachedContent": "cachedContents/1"}, "goes on from cachedContent"),
    ],
)
def test_a_prompt_that_is_more_than_its_text_is_not_guessed(endpoint: str, body: dict[str, Any], words: str) -> None:
    """A picture, a file, an earlier turn that is only named: the reason says which."""
    with pytest.raises(Uncountable, match=words):
        prompt(endpoint, body)


@pytest.mark.parametrize(
    ("endpoint", "content", "texts", "hidden"),
    [
        (
            "chat.completions",
            events(
                {"choices": [{"index": 0, "delta": {"content": "Hel"}}, {"index": 1, "delta": {"content": "Bye"}}]},
                {"choices": [{"index": 0, "delta": {"content": "lo", "tool_calls": [{"index": 0, "function": {"name": "f"}}]}}]},
                {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}]},
            ),
            ["Hello", "Bye", "f", "{}"],
            set(),
        ),
        # MiniMax: the last chunk says it all again
        (
            "chat.completions",
            events({"choices": [{"index": 0, "delta": {"content": "Hello"}}]}, {"choices": [{"index": 0, "message": {"content": "Hello"}}]}),
            ["Hello"],
            set(),
        ),
        # Mistral: thinking is a part of parts
        (
            "chat.completions",
            events({"choices": [{"delta": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}}]}),
            ["hm"],
            set(),
        ),
        (
            "responses",
            events(
                {"type": "response.created", "response": {"output": []}},
                {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "summary": []}},
                {"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "not what was thought"},
                {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "Hel"},
                {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "lo"},
                {"type": "response.output_item.added", "output_index": 2, "item": {"type": "function_call", "name": "look"}},
                {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"},
            ),
            ["Hello", "look", "{}"],
            {"reasoning"},
        ),
        # an open model's reasoning is told in full
        (
            "responses",
            events(
                {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "summary": []}},
                {"type": "response.reasoning_text.delta", "output_index": 0, "delta": "hm"},
            ),
            ["hm"],
            set(),
        ),
        # the frames of a WebSocket are kept one a line; the last object has it all
        (
            "responses",
            (b'{"type":"response.output_text.delta","output_index":0,"delta":"Hel"}\n'
            b'{"type":"response.completed","response":{"output":[{"type":"message","content":[{"type":"output_text","text":"Hello"}]},'
            b'{"type":"web_search_call"}]}}\n'),
            ["Hello"],
            {"web_search_call"},
        ),
        (
            "messages",
            events(
                {"type": "message_start", "message": {"content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
                {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
                {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
                {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "look", "input": {}}},
                {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
                {"type": "content_block_start", "index": 3, "content_block": {"type": "redacted_thinking", "data": "AA"}},
            ),
            ["hm", "Hello", "look", '{"a":'],
            {"redacted_thinking"},
        ),
        ("messages", b'{"content": [{"type": "text", "text": "Hi."}, {"type": "tool_use", "name": "f", "input": {"a": 1}}]}', ["Hi.", "f", '{"a":1}'], set()),
        # Gemini's own surface streams one list; this one broke
        (
            "gemini.generate",
            b'[{"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}\r\n,\r\n{"candidates": [{"content": {"parts": [{"text": "lo"}]}}]},{"cand',
            ["Hello"],
            set(),
        ),
    ],
)  # fmt: skip
def test_a_reply_is_the_text_that_came(endpoint: str, content: bytes, texts: list[str], hidden: set[str]) -> None:
    """Deltas are joined by place; what is billed and cannot be seen is named."""
    said = reply(endpoint, content)
    assert (said.texts, said.hidden, said.framing) == (texts, hidden, 0)


@pytest.mark.parametrize(
    ("endpoint", "message", "words"),
    [
        ("chat.completions", {"choices": [{"message": {"audio": {"data": "AA"}}}]}, "the reply holds audio"),
        ("chat.completions", {"choices": [{"delta": {"images": [{"type": "image_url"}]}}]}, "the reply holds images"),
        ("responses", {"type": "response.output_audio.delta", "delta": "AA"}, "the reply holds audio"),
        ("gemini.generate", {"candidates": [{"content": {"parts": [{"inlineData": {"data": "AA"}}]}}]}, "the reply holds inlineData"),
    ],
)
def test_a_reply_of_sound_or_pictures_is_not_guessed(endpoint: str, message: dict[str, Any], words: str) -> None:
    """It has no text to count."""
    with pytest.raises(Uncountable, match=words):
        reply(endpoint, events(message))
