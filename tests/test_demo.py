"""The demo's parts: its book is valid, its calls are understood by the vendor, and it leaves folders alone that are not its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.demo import HOSTS, KEPT, STEPS, DemoError, Step, clean, write_book
from schemas.book import load_book
from tests.vendor import Call, directives, marker


def test_the_demo_book_is_the_example_book_at_other_addresses(tmp_path: Path) -> None:
    """It loads, keeps the three channels and every price that can be used there, and no address of a real vendor."""
    source = Path(__file__).resolve().parent.parent / "data" / "book"
    write_book(source, tmp_path / "book", {name: f"http://{HOSTS[name]}:1/v1" for name in KEPT})
    book = load_book(tmp_path / "book")
    assert {channel.name for channel in book.channels} == set(KEPT)
    assert {channel.route for channel in book.channels} == {"official", "routed", "pool"}
    for path in (tmp_path / "book").glob("*.toml"):
        urls = [line for line in path.read_text().splitlines() if line.startswith("base_url")]
        assert all("127.0.0." in line for line in urls)
    models = {model.api for model in book.models}
    assert models >= {step.ask.model for step in STEPS if step.ask.endpoint != "models"}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step.door}-{step.shows}".replace(" ", "-"))
def test_every_marker_is_understood(step: Step) -> None:
    """A call that misbehaves does so on purpose, not because of a typing error."""
    directives(marker(Call("v", 1, "POST", "/", body=step.ask.message.encode())))


def test_a_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path) -> None:
    """It refuses, and the file is still there."""
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DemoError, match="left alone"):
        clean(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"
