"""Keys in the values of headers that are recorded."""

import orjson
import pytest

from proxy import redact
from proxy.exchange import Client, Exchange, Recording, RequestHead
from schemas.records import Instant

KEY = "sk-planted0123456789abcdef"


@pytest.mark.parametrize("name", ["Referer", "HTTP-Referer", "User-Agent", "X-Title", "Baggage", "Originator"])
@pytest.mark.parametrize("value", [f"https://a.example/{KEY}/x", f"words {KEY}", f"https://a.example/?api_key={KEY}&page=2"])
def test_a_key_in_a_header_of_free_text_is_not_recorded(name: str, value: str) -> None:
    """A key in an address or in words never reaches the record; what stands around it does."""
    kept = orjson.loads(redact.request_headers([(name, value)]))[name.lower()]
    assert KEY not in kept
    assert kept[:5] == value[:5]
    assert "***" in kept


@pytest.mark.parametrize(
    "name", ["X-Ledger-User", "x-ledger-tag-team", "Helicone-Property-App", "X-Portkey-Metadata", "cf-aig-metadata", "Accept"]
)
def test_a_key_in_any_other_header_is_not_recorded(name: str) -> None:
    """Tags, properties and metadata lose what has the shape of a key and nothing else."""
    for key in (KEY, "AIzaSyplanted0123456789", "AKIAPLANTED0123456789", "github_pat_planted0123456789", "eyJhbGciOiJI.planted01.x"):
        kept = orjson.loads(redact.request_headers([(name, f'{{"a": "{key}", "b": "c"}}')]))[name.lower()]
        assert kept == '{"a": "***", "b": "c"}'


def test_an_answers_headers_are_held_to_the_same() -> None:
    """A gateway that echoes a key in a header of its own does not bring it to the disk."""
    assert orjson.loads(redact.response_headers([("x-litellm-model-api-base", f"https://h/{KEY}")])) == {
        "x-litellm-model-api-base": "https://h/***"
    }


@pytest.mark.parametrize(
    "name", ["x-amz-signature", "X-Goog-Signature", "subscription-key", "Ocp-Apim-Subscription-Key", "token", "id_token"]
)
def test_a_secret_without_a_shape_goes_by_its_parameter(name: str) -> None:
    """What a parameter calls a secret is one, in the request's own query and in a referring address."""
    kept = orjson.loads(redact.request_headers([("Referer", f"https://ada:pw@a.example/p?page=2&{name}=plain")]))
    assert kept == {"referer": f"https://***@a.example/p?page=2&{name}=***"}
    assert redact.query(f"page=2&{name}=plain") == f"page=2&{name}=***"


@pytest.mark.parametrize("name", ["idempotency-key", "x-session-id", "thread-id", "x-ledger-run", "traceparent", "x-client-request-id"])
def test_ids_stay_whole(name: str) -> None:
    """Retries and runs are grouped by what these say, whatever its shape."""
    assert orjson.loads(redact.request_headers([(name, "key-0123456789ab")])) == {name: "key-0123456789ab"}


def test_a_credential_that_was_used_stands_in_no_record_whatever_its_shape() -> None:
    """The client's and the channel's, echoed by the vendor in a header, an id, a model and an error; a short one is a word and stays."""
    client, channel = "opaque.client.credential", "zz9876543210opaque"
    head = RequestHead("POST", "h", f"/v1/chat/{client}", "", (("authorization", f"Bearer {client}"), ("x-title", f"mine {client}")))
    recording = Recording(b"k" * 32, keep_bodies=False, credentials=(channel, "none"))
    machine = Exchange("id-1", head, Client("gateway", "127.0.0.1", "c1"), recording, Instant(1))
    machine.request_chunk(b'{"model": "none"}')
    records: list[object] = [machine.request_end()]
    attempt = machine.attempt(
        channel="c", role="primary", reason="first", url=f"http://h/{channel}", sent_model="none", modified=(), at=Instant(2)
    )
    attempt.head(401, (("x-request-id", channel), ("content-type", "application/json")), Instant(3))
    attempt.chunk(orjson.dumps({"id": client, "model": f"m {channel}", "error": {"message": f"bad key {channel} of {client}"}}), Instant(4))
    records += [attempt.opened, *attempt.close("complete", Instant(5), relayed=True, error=None)]
    told = repr(records)
    assert client not in told
    assert channel not in told
    assert told.count("***") >= 6
    assert "'none'" in told
