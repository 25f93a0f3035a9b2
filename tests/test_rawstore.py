"""raw/ of many sidecars in one object store: one chain, every record once, nothing believed that is not what was sealed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tokenledger
from etl.following import follow
from etl.verify import verify
from proxy.seal import seal
from schemas import manifest
from schemas.bodykeys import BodyKeys
from schemas.errors import UsageError
from schemas.fingerprint import home_key
from schemas.home import Home
from schemas.rawstore import DivergedError, RawStore, RawStoreError
from schemas.records import Instant, Record
from tests.clients import Ask, Door, ask_sync
from tests.rawdata import NOON, attempt, body, broken, call, request, rows, spool, write_book
from tests.sidecar import Priced, Way, command, recorded, sidecar
from tests.sidecar import write_book as write_routes
from tests.stores import BUCKET, WEED, client, moto, seaweed
from tests.upstream import Upstream, serving

SERVERS = [
    "moto",
    pytest.param(
        "seaweed",
        marks=[pytest.mark.peers, pytest.mark.skipif(not WEED.exists(), reason="SeaweedFS is not installed: run `make test-peers`")],
    ),
]


@dataclass(frozen=True)
class Place:
    """A folder of a running store, and the variables that lead a client to it."""

    url: str
    folder: str
    variables: Mapping[str, str]

    def open(self) -> RawStore:
        """The store, as a process that has just started opens it."""
        return RawStore(self.url)

    def home(self, folder: Path, name: str) -> Home:
        """A sidecar's home whose book names the store."""
        home = Home(folder / name)
        write_book(home, book=f'+[raw]\nstore = "{self.url}"\n')
        return home


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """An S3 server with an empty bucket."""
    with {"moto": moto, "seaweed": seaweed}[request.param](tmp_path_factory.mktemp("server")) as variables:
        yield variables


@pytest.fixture
def store(server: Mapping[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder of its own for each test; the environment leads to it."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    folder = request.function.__name__
    return Place(f"s3://{BUCKET}/{folder}", folder, server)


def told(*_: int) -> None:
    """Nobody listens."""


def test_sidecars_that_seal_at_once_share_one_chain(store: Place, tmp_path: Path) -> None:
    """Four sidecars seal eight times each, all at once; one home that has none of their disks charges every call once."""

    def sealed(name: str) -> None:
        home = store.home(tmp_path, name)
        for turn in range(8):
            spool(home, call(f"{name}-{turn}", NOON + turn), writer=name, first_seq=1 + 3 * turn)
            seal(home, Instant(NOON), store.open())

    names = [f"w{number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(sealed, names))
    builder = store.home(tmp_path, "builder")
    chain = store.open().join(builder)
    assert [line.number for line in chain] == list(range(1, 33))
    assert chain == manifest.read(builder.manifest)
    assert manifest.sealed_up_to(chain) == dict.fromkeys(names, 24)
    assert follow(builder, store.open(), told) == 96
    assert follow(builder, store.open(), told) == 0


def test_a_store_that_does_not_answer_loses_nothing(store: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sealing fails with what to check, the spool keeps the records, and the next run seals them."""
    home = store.home(tmp_path, "w1")
    spool(home, call("a"))
    with monkeypatch.context() as dead:
        dead.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
        dead.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(RawStoreError, match="AWS_"):
            seal(home, Instant(NOON), store.open())
    assert manifest.read(home.manifest) == []
    assert seal(home, Instant(NOON), store.open()).rows["response"] == 1


def test_a_home_that_sealed_before_brings_its_chain_along(store: Place, tmp_path: Path) -> None:
    """What lay on its disk alone is in the store afterwards, and another home's next line goes on from there."""
    old, young = store.home(tmp_path, "old"), store.home(tmp_path, "young")
    spool(old, call("a"), writer="old")
    seal(old, Instant(NOON))
    seal(old, Instant(NOON), store.open())
    spool(young, call("b"), writer="young")
    seal(young, Instant(NOON), store.open())
    assert [line.writer for line in store.open().join(old)] == ["old", "young"]


def test_two_histories_do_not_mix(store: Place, tmp_path: Path) -> None:
    """A home with a chain of its own cannot join a store that began with another."""
    one, other = store.home(tmp_path, "one"), store.home(tmp_path, "other")
    spool(one, call("a"), writer="one")
    seal(one, Instant(NOON), store.open())
    spool(other, call("b"), writer="other")
    seal(other, Instant(NOON))
    with pytest.raises(DivergedError, match="line 1"):
        store.open().join(other)


def test_a_changed_object_is_not_believed(store: Place, tmp_path: Path) -> None:
    """A file whose bytes are not those that were sealed is not fetched; a changed line breaks the chain by name."""
    home, reader = store.home(tmp_path, "w1"), store.home(tmp_path, "reader")
    spool(home, call("a"))
    seal(home, Instant(NOON), store.open())
    (line,) = manifest.read(home.manifest)
    client(store.variables).put_object(Bucket=BUCKET, Key=f"{store.folder}/{line.files[0].path}", Body=b"PAR1 something else PAR1")
    store.open().join(reader)
    follow(reader, store.open(), told)
    assert [(reader.raw / file.path).exists() for file in line.files] == [False, *[True] * (len(line.files) - 1)]
    client(store.variables).put_object(Bucket=BUCKET, Key=f"{store.folder}/manifest/000000000002.json", Body=line.line())
    with pytest.raises(manifest.ManifestError, match="000000000002"):
        store.open().join(reader)


def test_an_answer_that_was_lost_is_no_second_line(store: Place, tmp_path: Path) -> None:
    """A line that was put, but of which the home never heard, is found there and not put again."""
    home = store.home(tmp_path, "w1")
    spool(home, call("a"))
    seal(home, Instant(NOON), store.open())
    home.manifest.write_bytes(b"")  # as after a power cut between the put and the line on the disk
    spool(home, call("a"))
    assert seal(home, Instant(NOON), store.open()).files == 0
    assert len(manifest.read(home.manifest)) == 1


def test_a_sidecar_seals_there_and_another_home_builds_the_ledger(store: Place, tmp_path: Path) -> None:
    """Real traffic through one machine's proxy; `tokenledger ledger` on another has its request, its charge and its balance."""
    settings = f'[raw]\nstore = "{store.url}"'
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    with serving(Upstream(name="vendor")) as vendor:
        for home in (one, other):
            write_routes(home, [Way("official", f"{vendor.url}/v1")], prices=[Priced("official", "*", "input", "1")], settings=settings)
        with sidecar(one) as running:
            ask_sync(Door(running.base_url), Ask())
    done = subprocess.run(command(other, "ledger", "--no-close"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in rows(other, "select status from ledger")] == ["ok"]


def cut_call(home: Home, name: str, at: int = NOON) -> list[Record]:
    """A stream that broke, whose tokens are counted from its bodies; these are Ada's, encrypted with this home's key."""
    keys = BodyKeys(home)
    asked = body(name, 0, b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Tell me"}]}', at, subject="user:ada")
    said = body(name, 1, b'data: {"choices":[{"delta":{"content":"Once upon"}}]}\n\n', at, subject="user:ada")
    tried: list[Record] = [
        request(name, at, match_sha256=f"{name:c<64}", api_model="gpt-4o-mini"),
        attempt(name, at=at, sent_model="gpt-4o-mini"),
    ]
    return [*tried, broken(name, at=at, output_seen=True), keys.encrypted(asked), keys.encrypted(said)]


def run(home: Home, *words: str) -> int:
    return tokenledger.run(["--home", str(home.root), *words])


def objects(store: Place, folder: str) -> dict[str, bytes]:
    """What lies in a folder of the store, by name."""
    s3 = client(store.variables)
    found = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{store.folder}/{folder}/").get("Contents", [])
    return {each["Key"]: s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read() for each in found}


MONEY = "SELECT request_id, final_charge, receipt_digest FROM ledger ORDER BY 1"


def test_a_subject_is_read_and_erased_in_every_home(store: Place, tmp_path: Path) -> None:
    """Two homes have each a key of Ada's. One reads what both recorded, and erases it: here, in the store, and in the other home too."""
    one, other = store.home(tmp_path, "one"), store.home(tmp_path, "other")
    home_key(one)
    other.secrets.mkdir()
    shutil.copy(one.fingerprint_key, other.fingerprint_key)
    for home in (one, other):
        spool(home, cut_call(home, home.root.name), writer=home.root.name)
        seal(home, Instant(NOON), store.open())
    assert run(one, "ledger", "--no-close") == 0
    assert run(other, "ledger", "--no-close") == 0
    money = rows(other, MONEY)
    assert [row["request_id"] for row in money if row["final_charge"]] == ["one", "other"]
    secret = [bytes.fromhex(json.loads(path.read_bytes())["key"]) for path in other.body_keys.glob("*.key")]
    assert len(secret) == 2
    assert not [key for key in secret for content in objects(store, "keys").values() if key in content or key.hex().encode() in content]

    assert run(other, "erase", "--subject", "user:ada", "--by", "ann", "--reason", "she asked") == 0
    assert list(objects(store, "keys").values()) == [b"", b""]
    kept = [row for content in objects(store, "body").values() for row in pq.read_table(io.BytesIO(content)).to_pylist()]
    assert [row["content"] for row in kept] == [b""] * 4
    verify(other)
    spool(one, call("next"), writer="one", first_seq=6)
    seal(one, Instant(NOON), store.open())
    assert list(one.body_keys.iterdir()) == []  # it heard of it, though nobody erased anything there
    for home in (one, other):
        assert run(home, "ledger", "--no-close") == 0
        assert [row for row in rows(home, MONEY) if row["request_id"] != "next"] == money
        verify(home)
    assert [len(row["content"]) for row in recorded(one, "body")] == [0] * 4
    fresh = store.home(tmp_path, "fresh")
    fresh.secrets.mkdir()
    shutil.copy(one.fingerprint_key, fresh.fingerprint_key)
    assert run(fresh, "ledger", "--no-close") == 0
    assert rows(fresh, MONEY) == rows(one, MONEY)


def test_days_are_erased_in_the_store_too(store: Place, tmp_path: Path) -> None:
    """Once its month is closed, a body's file goes from the store and from each home that has it; nobody takes that for a loss."""
    one, other = store.home(tmp_path, "one"), store.home(tmp_path, "other")
    home_key(one)
    other.secrets.mkdir()
    shutil.copy(one.fingerprint_key, other.fingerprint_key)
    spool(one, cut_call(one, "one"), writer="one")
    seal(one, Instant(NOON), store.open())
    assert run(one, "ledger", "--as-of", "2026-11-03T00:00:00Z") == 0
    assert run(other, "ledger", "--no-close") == 0
    assert len(objects(store, "body")) == len(list(other.raw.rglob("body/*/*.parquet"))) == 1
    assert run(one, "erase", "--before", "2026-11-01", "--by", "ann", "--reason", "old") == 0
    assert objects(store, "body") == {}
    for home in (other, one):
        assert run(home, "ledger", "--no-close") == 0
        assert list(home.raw.rglob("body/*/*.parquet")) == []
        verify(home)


def test_what_is_no_store_is_refused() -> None:
    """A scheme that the library does not know is a bad book, with its cure."""
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX"):
        RawStore("ftp://somewhere/else")
