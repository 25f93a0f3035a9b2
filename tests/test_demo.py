"""The demo's parts: its book is valid, its calls are understood by the vendor, and it leaves folders alone that are not its own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from bench.demo import HOSTS, KEPT, STEPS, DemoError, Step, clean, write_book
from schemas.book import load_book
from tests.vendor import Call, directives, marker

ROOT = Path(__file__).resolve().parent.parent


def test_the_demo_book_is_the_example_book_at_other_addresses(tmp_path: Path) -> None:
    """It loads, keeps the three channels and every price that can be used there, and no address of a real vendor."""
    source = ROOT / "data" / "book"
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


def test_the_demo_end_to_end(tmp_path: Path) -> None:
    """Every call is a row, every try an attempt, the books balance, the README's questions have answers, and each next command works."""
    home = tmp_path / "demo"
    told = subprocess.run(
        [sys.executable, "-m", "bench.demo", "--home", str(home)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=100
    )
    assert f"{len(STEPS)}/{len(STEPS)}" in told.stderr
    with duckdb.connect(str(home / "ledger" / "ledger.duckdb"), read_only=True) as connection:

        def one(query: str) -> tuple[object, ...]:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row

        # Beside one try a call: 429 again (1), 503 again and fallback (2), pool to vendor (1), the SDK's own retries (2).
        assert one("select count(*), sum(attempt_count), sum(retry_count), sum(fallback_count) from ledger") == (28, 34, 4, 2)
        assert one("select count(*) from ledger where door = 'forward'") == (10,)
        assert one("select count(*) from ledger where api_key_label = 'unregistered'") == (2,)
        assert one("select sum(amount), count(*) > 0 from journal") == (0, True)
        assert one("select balance_after from wallet_statement order by posted_at limit 1") == (50,)
        questions = re.findall(r'\$ tokenledger sql "([^"]+)"', (ROOT / "README.md").read_text())
        assert len(questions) == 5
        for question in questions:
            assert connection.execute(question).fetchall(), question
    assert f'all of them: tokenledger --home {home} sql "FROM data_quality"' in told.stdout
    lines = told.stdout.partition("What to type next\n")[2].splitlines()
    commands = [shlex.split(line) for line in lines if ".venv/bin/tokenledger" in line]
    assert len(commands) == 5
    for _, *arguments in commands:
        done = subprocess.run([sys.executable, "-m", "tokenledger", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout
