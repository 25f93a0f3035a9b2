"""Multipart forms read as they pass: each text field is found wherever it stands, and its place is where its bytes are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.form import PART_HEAD_BYTES, VALUE_BYTES, FormReader, boundary_of

BOUNDARY = b"XbX"
FILE = b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav'
# what a file may hold that looks like a form
LURES = (b"\r\n", b"--XbX", b"\r\n--Xb", b"\r\n--", b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nlure\r\n', b"\x00", b"-")


def field(name: str, value: bytes) -> tuple[bytes, bytes]:
    """The head and the content of a text field."""
    return b'Content-Disposition: form-data; name="%s"' % name.encode(), value


def form(*parts: tuple[bytes, bytes], preamble: bytes = b"") -> bytes:
    """A form of these parts, as RFC 2046 has it."""
    return preamble + b"".join(b"--XbX\r\n%s\r\n\r\n%s\r\n" % part for part in parts) + b"--XbX--\r\n"


def fed(body: bytes, cuts: list[int] | None = None) -> FormReader:
    """What is read of a body that comes in pieces."""
    reader = FormReader(BOUNDARY)
    for start, end in pairwise([0, *sorted(cuts or []), len(body)]):
        reader.feed(body[start:end])
    return reader


content = (
    st.lists(st.one_of(st.sampled_from(LURES), st.binary(max_size=400)), max_size=6).map(b"".join).filter(lambda c: b"\r\n--XbX" not in c)
)


@given(st.data(), st.permutations(["model", "file", "stream", "other"]), content)
def test_any_order_in_any_pieces(data: st.DataObject, order: list[str], file: bytes) -> None:
    """A file before the fields, between them, or after; cut anywhere. The place of a value is where its bytes lie."""
    values = {"model": b"whisper-1", "stream": b"true", "other": "größer".encode()}
    body = form(*((FILE, file) if name == "file" else field(name, values[name]) for name in order))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12))
    found = fed(body, cuts).fields
    assert {name: place.value for name, place in found.items()} == values
    assert all(body[place.start : place.end] == place.value for place in found.values())
    assert found["other"].text == "größer"


def test_every_single_cut() -> None:
    """In two pieces and byte by byte: the same."""
    body = form((FILE, b"\r\n--Xb" * 3), field("model", b"m2"), preamble=b"passed over\r\n")
    whole = fed(body).fields
    assert whole["model"].text == "m2"
    for cut in range(len(body)):
        assert fed(body, [cut]).fields == whole
    assert fed(body, list(range(len(body)))).fields == whole


@pytest.mark.parametrize(
    ("parts", "model"),
    [
        ([field("model", b"first"), field("model", b"second")], "first"),
        ([field("model", b"")], None),
        ([field("model", b"two\r\nlines")], None),
        ([field("model", b"m" * VALUE_BYTES)], "m" * VALUE_BYTES),
        ([field("model", b"m" * (VALUE_BYTES + 1))], None),
        ([(b"content-disposition:form-data;name=model", b"bare")], "bare"),
        ([(b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="model"', b"typed")], "typed"),
        ([(b'Content-Disposition: form-data; name="model"; filename="m.txt"', b"a file")], None),
        ([(b'Content-Disposition: form-data; filename="name=model"; name="file"', b"a file")], None),
        ([(b'Content-Disposition: attachment; name="model"', b"no field")], None),
        ([(b"X: " + b"x" * PART_HEAD_BYTES, b"long head"), field("model", b"after it")], "after it"),
    ],
)
def test_which_part_is_a_field(parts: list[tuple[bytes, bytes]], model: str | None) -> None:
    """The first of a name, short, on one line, and no file."""
    body = form(*parts)
    for cuts in ([], list(range(0, len(body), 7))):
        found = fed(body, cuts).fields
        assert (found["model"].text if "model" in found else None) == model


def test_what_follows_the_end_is_not_of_the_form() -> None:
    """An epilogue is passed over."""
    assert fed(form(field("a", b"1")) + form(field("model", b"2"))).fields.keys() == {"a"}


def test_a_boundary_is_read_as_it_is_written() -> None:
    """With quotes, without, and where there is none."""
    assert boundary_of("multipart/form-data; boundary=abc; charset=utf-8") == b"abc"
    assert boundary_of('multipart/form-data; charset=utf-8; Boundary="a b;c"') == b"a b;c"
    assert boundary_of("multipart/form-data") is None
