"""Verification finds a single changed bit wherever money is recorded, and names the file or row."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from etl import merkle
from etl.bookwatch import changes, remember, unseen
from etl.build import DIGEST_FILE, build
from etl.close import close
from etl.published import PeriodError
from etl.seals import KEY_FILE, sha256_of
from etl.verify import verify
from schemas.errors import LedgerError
from schemas.home import Home
from schemas.instants import parse_instant
from tests.rawdata import DAY, NOON, Archive, call, spool, topup, write_book
from tokenledger import run

MORNING = parse_instant("2026-11-02T06:00:00Z")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with October closed, November open, and a journal that is not sealed yet."""
    home = Home(tmp_path_factory.mktemp("home"))
    write_book(home)
    Archive(home).seal([*call("r1"), *call("r2", NOON + DAY), topup("t1", "10"), *call("n1", MORNING - 60_000_000)])
    spool(home, call("n2", MORNING - 1), writer="w2")
    remember(home)
    assert close(home, MORNING).closed == ("2026-10",)
    return home


def named(home: Home, period: str | None = None) -> str:
    """What verification says is wrong first."""
    with pytest.raises(LedgerError) as caught:
        verify(home, period)
    return caught.value.what


def test_a_whole_home_is_verified(closed: Home) -> None:
    """Everything is counted: the raw files that the manifest lists, three frames, four receipts, one closed month."""
    found = verify(closed)
    assert (found.frames, found.requests, found.entries, found.months) == (3, 4, 10, 1)
    assert str(found).startswith(f"verified: {found.files} raw files, 3 journal frames, 4 receipts")
    one_month = verify(closed, "2026-10")
    assert (one_month.requests, one_month.entries, one_month.months) == (2, 6, 1)


def test_nothing_recorded_is_nothing_wrong(home: Home) -> None:
    """An empty home has nothing to be wrong."""
    write_book(home)
    found = verify(home)
    assert (found.files, found.requests, found.months) == (0, 0, 0)


def test_no_home_is_not_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path with nothing there, a folder without a book, one with an empty book and a plain file: bad usage, as `rates check` says it."""
    folder, empty, file, book = tmp_path / "folder", tmp_path / "empty", tmp_path / "file", Home(tmp_path / "valid")
    folder.mkdir()
    Home(empty).book.mkdir(parents=True)
    file.touch()
    for root in (tmp_path / "nowhere", folder, empty, file):
        assert run(["rates", "check", "--home", str(root)]) == 2
        expected = capsys.readouterr()
        assert run(["verify", "--home", str(root)]) == 2
        assert capsys.readouterr() == expected
    write_book(book)
    assert run(["verify", "--home", str(book.root)]) == 0


def every_file(home: Home) -> list[Path]:
    left_out = {"build.lock", "seal.lock", "lock", "writer"}
    return sorted(
        path
        for folder in (home.book, home.raw, home.spool, home.ledger)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in left_out
    )


def test_one_changed_bit_is_found_in_every_file(closed: Home) -> None:
    """Book, journal, manifest, raw files, seal, every output of the closed month and the published file, at three places each."""
    for path in every_file(closed):
        whole = path.read_bytes()
        size = len(whole.rstrip(b"\0")) if path.suffix == ".seg" else len(whole)  # a segment's unused end means nothing
        for at in {0, size // 2, size - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            try:
                try:
                    said = named(closed)
                except pytest.fail.Exception:
                    pytest.fail(f"byte {at} of {path.relative_to(closed.root)} changed, and nobody noticed")
                kept_twice = path.parent.parent.name == "books" or path.name in ("seen", DIGEST_FILE)
                assert path.name in said or kept_twice, (path, at, said)
            finally:
                path.write_bytes(whole)
    verify(closed)


def test_a_missing_or_unfinished_file_is_found(closed: Home) -> None:
    """A raw file that is gone, a manifest line that lost its end, a seal that is gone."""
    path = next(closed.raw.rglob("*.parquet"))
    for victim, change in ((path, None), (closed.manifest, -1), (closed.ledger / "2026-10" / "ledger.csv", None)):
        whole = victim.read_bytes()
        victim.unlink()
        if change is not None:
            victim.write_bytes(whole[:change])
        try:
            assert victim.name in named(closed)
        finally:
            victim.write_bytes(whole)
    verify(closed)


@pytest.mark.parametrize("gone", ["2026-10/seal.json", "2026-10"])
def test_a_closed_month_that_is_gone_is_found(closed: Home, tmp_path: Path, gone: str) -> None:
    """The chain of seals ends before it, but the published ledger knows that it was closed; where that is gone too, its basis does."""
    place, aside = closed.ledger / gone, tmp_path / "aside"
    place.rename(aside)
    ledger, kept = closed.ledger_file, tmp_path / "kept"
    try:
        for period in (None, "2026-10", "2026-11"):
            assert named(closed, period) == f"ledger/{gone}: is missing, though the month was closed"
        ledger.rename(kept)
        try:
            assert "is missing, though the month was closed" in named(closed)
        finally:
            kept.rename(ledger)
    finally:
        aside.rename(place)
    verify(closed)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE journal SET amount = amount + 1 WHERE account LIKE 'usage:%' AND request_id = 'n1'", "does not sum to zero"),
        (
            "UPDATE journal SET posted_at = posted_at + INTERVAL 1 SECOND WHERE account LIKE 'usage:%' AND request_id = 'n1'",
            "trial balance",
        ),
        ("UPDATE wallet_balances SET balance = balance + 1", "a balance is not the sum"),
        ("UPDATE charges SET amount = amount + 1 WHERE request_id = 'n1'", "a charge is not the sum of its lines"),
        ("UPDATE ledger SET project = 'other' WHERE request_id = 'n1'", "receipt n1: its digest"),
        ("UPDATE audit_trail SET actor = 'nobody'", "audit_trail 1: breaks the chain"),
        ("UPDATE wallet_statement SET balance_after = 0 WHERE request_id = 'n1'", "a balance after an entry"),
        ("UPDATE balance_proof SET closing = closing + 1", "balance proof does not hold"),
        ("UPDATE journal SET reason = 'other' WHERE request_id = 'r1'", "journal of 2026-10: is not what was sealed"),
    ],
)
def test_a_law_that_the_published_ledger_breaks_is_named(closed: Home, statement: str, what: str) -> None:
    """Even where the file's own hash is made to fit, the laws are worked out again from its rows."""
    noted = closed.ledger / DIGEST_FILE
    with duckdb.connect(str(closed.ledger_file)) as connection:
        connection.execute(statement)
    noted.write_text(f"{sha256_of(closed.ledger_file)}  ledger.duckdb\n" + noted.read_text().split("\n", 1)[1])
    try:
        assert what in named(closed)
    finally:
        build(closed)
    verify(closed)


def test_a_seal_of_another_key_is_found(closed: Home) -> None:
    """A month that somebody sealed anew with a key of theirs does not pass for ours."""
    key = closed.secrets / KEY_FILE
    whole = key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_text("11" * 32)
    try:
        assert "signed by another key" in named(closed)
        for damaged in (bytes([whole[0] ^ 128]) + whole[1:], whole[:10], b""):
            key.write_bytes(damaged)
            assert KEY_FILE in named(closed)
    finally:
        key.write_bytes(whole)


def test_a_month_that_nobody_recorded_is_not_verified(closed: Home) -> None:
    """Nothing of it was looked at, so it is not said to be whole."""
    with pytest.raises(PeriodError, match="nothing of 2027-01"):
        verify(closed, "2027-01")


# ---- the tree ----


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13])
def test_every_receipt_of_a_tree_can_be_proved(tmp_path: Path, count: int) -> None:
    """From each leaf its siblings lead to the one root, and no other digest does."""
    digests = [f"{n:064x}" for n in range(count)]
    tree = merkle.grow(digests)
    tree.write(tmp_path / "tree")
    assert (tree.leaves, tree.is_in(tmp_path / "tree")) == (count, True)
    assert not merkle.grow([*digests, "0" * 64]).is_in(tmp_path / "tree")
    root = tree.root
    for index, digest in enumerate(digests):
        siblings = merkle.proof(tmp_path / "tree", count, index)
        assert merkle.climb(digest, siblings) == root
        assert merkle.climb("f" * 64, siblings) != root


def test_the_tree_is_that_of_rfc_6962() -> None:
    """Three leaves by hand: the first two are joined, the third moves up unchanged."""
    a, b, c = (merkle.leaf(f"{n:064x}") for n in range(3))
    assert merkle.grow(f"{n:064x}" for n in range(3)).root == merkle.node(merkle.node(a, b), c).hex()


# ---- the book's versions ----


def test_a_change_of_the_book_is_told_line_by_line(home: Home) -> None:
    """Nothing changed, nothing told; a file that comes, goes or changes is named with its lines."""
    write_book(home)
    assert {change.before for change in unseen(home)} == {None}
    remember(home)
    assert unseen(home) == ()
    (change,) = changes({"a": b"x\ny\n", "b": b"same"}, {"a": b"x\nz\n", "b": b"same"})
    assert (change.file, change.removed, change.added) == ("a", ("y",), ("z",))
    gone, came = changes({"a": b"x"}, {"b": b"y"})
    assert ((gone.file, gone.after), (came.file, came.before)) == (("a", None), ("b", None))
