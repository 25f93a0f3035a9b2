"""The Turns machine: scripts of frames in, turns to open and to close out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.exchange import Client, Exchange, Recording, RequestHead
from proxy.turns import Closed, Opened, Turns, Way, asked_model, creation, kind_of
from schemas.records import Instant, Request, Response

HEAD = RequestHead("GET", "api.test", "/v1/responses", "", (("Authorization", "Bearer sk-secret-0123456789"), ("X-Request-Id", "up")))
WAY = Way("official", "direct", "https://api.test/v1/responses", 101, (("x-request-id", "req_1"),))


class Script:
    """One connection, driven frame by frame; times are the number of the frame."""

    def __init__(self, kind: str | None = "responses", way: Way = WAY) -> None:
        recording = Recording(b"k" * 32, keep_bodies=True)
        client = Client("forward", "127.0.0.1", "c1")
        self._count = 0
        connection = Exchange("up", HEAD, client, recording, Instant(0))
        self.rest = connection.attempt(channel="c", role="direct", reason="first", url="u", sent_model=None, modified=(), at=Instant(0))

        def begin() -> Exchange:
            self._count += 1
            return Exchange(f"turn-{self._count}", HEAD, client, recording, Instant(self._at), parent="up")

        self._at = 0
        self.turns = Turns(kind, way, begin, self.rest)
        self.requests: dict[str, Request] = {}
        self.responses: dict[str, Response] = {}

    def client(self, **frame: Any) -> None:
        self._at += 1
        opened = self.turns.client(json.dumps(frame).encode(), Instant(self._at), text=True)
        if opened is not None:
            self._settle(opened)

    def server(self, **frame: Any) -> None:
        self._at += 1
        for step in self.turns.server(json.dumps(frame).encode(), Instant(self._at), text=True):
            self._settle(step)

    def end(self, ending: str) -> None:
        for step in self.turns.end(ending, "as told"):
            self._settle(step)

    def connection(self) -> Response:
        """The connection's own response."""
        response = self.rest.close("complete", Instant(99), relayed=True)[0]
        assert isinstance(response, Response)
        return response

    def _settle(self, step: Opened | Closed) -> None:
        if isinstance(step, Opened):
            request = step.records[0]
            assert isinstance(request, Request)
            self.requests[request.request_id] = request
        else:
            response = step.capture.close(step.ending, Instant(self._at), relayed=True, error=step.error)[0]
            assert isinstance(response, Response)
            self.responses[response.request_id] = response


def response(response_id: str, model: str = "m", **more: Any) -> dict[str, Any]:
    return {"id": response_id, "model": model, "output": [], **more}


def test_a_turn_opens_with_the_clients_frame_and_closes_with_its_usage() -> None:
    """Its request is the frame, its times are its own, and what names the upgrade alone is not in it."""
    script = Script()
    script.client(type="response.create", model="m", store=False)
    assert script.turns.live == 1
    script.server(type="response.created", response=response("r1"))
    script.server(type="response.completed", response=response("r1", usage={"input_tokens": 1}))
    request, answer = script.requests["turn-1"], script.responses["turn-1"]
    assert (request.parent_request_id, request.api_model, request.body_facts) == ("up", "m", '{"store":false}')
    assert (answer.http_status, answer.headers_at, answer.closed_at, answer.events) == (101, 2, 3, 2)
    assert answer.headers == '{"x-request-id":"req_1"}'
    assert script.turns.live == 0


def test_turns_are_told_apart_by_id_even_where_lanes_are_not_named() -> None:
    """Two turns run at once without a lane: what carries an id finds its turn, whichever came first."""
    script = Script()
    for model in ("one", "two"):
        script.client(type="response.create", model=model)
    script.server(type="response.created", response=response("a", "one"))
    script.server(type="response.created", response=response("b", "two"))
    script.server(type="response.completed", response=response("b", "two", usage={"n": 2}))
    script.server(type="response.completed", response=response("a", "one", usage={"n": 1}))
    assert [(one.served_model, one.usage[0].object) for one in script.responses.values()] == [("two", '{"n":2}'), ("one", '{"n":1}')]
    assert [script.requests[name].api_model for name in script.responses] == ["two", "one"]


def test_frames_without_an_id_go_to_the_head_of_their_lane() -> None:
    """Deltas name no response; a lane is first in, first out."""
    script = Script()
    script.client(type="response.create", model="one", stream_id="x")
    script.client(type="response.create", model="two", stream_id="y")
    script.server(type="response.created", response=response("b", "two"), stream_id="y")
    script.server(type="response.output_text.delta", delta="for y", stream_id="y")
    script.server(type="response.created", response=response("a", "one"), stream_id="x")
    script.server(type="response.output_text.delta", delta="whose?")
    script.end("upstream_truncated")
    assert {name: one.events for name, one in script.responses.items()} == {"turn-1": 1, "turn-2": 2}
    assert script.connection().events == 1


def test_a_turn_is_known_by_the_first_frame_that_names_its_response() -> None:
    """Where upstream sends no response.created: its output is its own; a piece of what has ended, or of nothing, is the connection's."""
    script = Script("realtime")
    script.client(type="response.create")
    script.server(type="response.output_text.delta", response_id="r1", delta="hi")
    script.server(type="response.done", response={"id": "r1", "usage": {"input_tokens": 1, "output_tokens": 1}})
    script.server(type="response.output_text.delta", response_id="r1", delta="late")
    script.server(type="response.output_text.delta", response_id="r9", delta="nobody's")
    (answer,) = script.responses.values()
    assert (answer.events, answer.output_seen, answer.first_token_at) == (2, True, 2)
    assert script.turns.live == 0


def test_an_ended_response_is_not_opened_again() -> None:
    """A frame that repeats an end belongs to the connection, and no second turn is billed."""
    script = Script()
    script.client(type="response.create", model="m")
    for _ in range(2):
        script.server(type="response.completed", response=response("r", usage={"n": 1}))
    assert list(script.requests) == ["turn-1"]
    assert script.connection().events == 1


@pytest.mark.parametrize("frame", [{"error": {"code": "c"}}, {"code": "c", "message": "flat"}, {"status": 400, "error": {"code": "c"}}])
def test_an_error_ends_the_turn_in_either_shape(frame: dict[str, Any]) -> None:
    """Nested or flat, with or without a status."""
    script = Script()
    script.client(type="response.create", model="m")
    script.server(type="error", **frame)
    answer = script.responses["turn-1"]
    assert answer.error_object is not None
    assert (answer.terminal, answer.notes) == ("error", ())
    assert json.loads(answer.error_object)["code"] == "c"
    assert (answer.http_status, answer.error_event) == ((400, False) if "status" in frame else (101, True))


def test_an_error_without_a_turn_is_the_connections() -> None:
    """The limit on a connection's life is nobody's turn."""
    script = Script()
    script.server(type="error", error={"code": "websocket_connection_limit_reached"})
    assert script.requests == {}
    assert "websocket_connection_limit_reached" in (script.connection().error_object or "")


def test_turns_that_the_socket_cuts_off_say_so() -> None:
    """Begun or not, each closes with the connection's end; one that upstream never answered has no status."""
    script = Script()
    script.client(type="response.create", model="one")
    script.server(type="response.created", response=response("a"))
    script.client(type="response.create", model="two")
    script.turns.client_gone(Instant(50))
    script.end("client_gone")
    assert [(one.ending, one.http_status, one.client_gone_at) for one in script.responses.values()] == [
        ("client_gone", 101, 50),
        ("client_gone", None, 50),
    ]


def test_voice_begins_a_turn_that_nobody_asked_for() -> None:
    """It has no body; its model is the address's, what served is the session's."""
    script = Script("realtime", Way("c", "direct", "u", 101, (), model="asked", sent_model="sent"))
    script.server(type="session.created", session={"model": "served-1"})
    script.server(type="response.created", response={"id": "r"})
    script.server(type="response.output_audio.delta", response_id="r", delta="UklG")
    script.server(type="response.done", response={"id": "r", "status": "completed", "usage": {"n": 1}})
    request, answer = script.requests["turn-1"], script.responses["turn-1"]
    assert (request.api_model, request.body_state, answer.served_model, answer.events) == ("asked", "none", "served-1", 3)


def test_a_realtime_error_is_a_turns_only_if_it_says_so() -> None:
    """By the client's event id, or because only one response may run; any other leaves the waiting turn alone."""
    script = Script("realtime")
    script.client(type="response.create", event_id="mine")
    script.server(type="error", error={"code": "input_audio_buffer_commit_empty", "event_id": "other"})
    assert script.responses == {}
    script.server(type="error", error={"code": "anything", "event_id": "mine"})
    script.client(type="response.create")
    script.server(type="error", error={"code": "conversation_already_has_active_response", "event_id": None})
    assert list(script.responses) == ["turn-1", "turn-2"]


def test_a_transcription_is_known_by_its_item_and_priced_at_its_own_model() -> None:
    """Two items at once, and the model from the session in either of its shapes."""
    script = Script("realtime")
    script.server(type="session.updated", session={"model": "m", "input_audio_transcription": {"model": "whisper-1"}})
    kind = "conversation.item.input_audio_transcription"
    script.server(type=f"{kind}.delta", item_id="i1", content_index=0, delta="a")
    script.server(type=f"{kind}.completed", item_id="i2", content_index=0, transcript="b", usage={"type": "duration", "seconds": 1.50})
    script.server(type=f"{kind}.failed", item_id="i1", content_index=0, error={"code": "no_speech", "message": "nothing"})
    assert {request.api_model for request in script.requests.values()} == {"whisper-1"}
    second, first = script.responses.values()
    assert (second.usage[0].path, second.output_seen, second.events) == ("usage", True, 1)
    assert (first.error, first.events, first.usage) == ("nothing", 2, ())


def test_a_path_that_means_nothing_has_no_turns() -> None:
    """All its frames are the connection's."""
    script = Script(None)
    script.client(type="response.create", model="m")
    script.server(type="response.created", response=response("r"))
    assert script.requests == {}
    assert script.connection().events == 1


def test_what_an_upgrade_says() -> None:
    """Which paths carry turns, which model an address names, and which frames ask for a response."""
    assert [kind_of(path) for path in ("/v1/responses", "/v1/responses/", "/openai/realtime", "/v1/live", "/v1/responses/x")] == [
        "responses",
        "responses",
        "realtime",
        None,
        None,
    ]
    assert [asked_model(query) for query in ("model=a%2Fb&x=1", "x=1&model=a+b", "model=", "")] == ["a/b", "a b", None, None]
    assert creation("responses", b'{"type" : "response.create"}') == {"type": "response.create"}
    assert creation("responses", b'{"type":"response.cancel","note":"response.create"}') is None
    assert creation("responses", b'["response.create"') is None
