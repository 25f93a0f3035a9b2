"""Rounds of the product's own work, each with a fault, each followed by the promises; a process of its own, whose forks do the work.

    python -m tests.campaign ROUNDS FOLDER COUNT

prints what it did as JSON, and ends with 1 at the first promise that was not kept. A process that forks may have no other
threads, so it lies outside the test's own.
"""

from __future__ import annotations

import errno
import functools
import os
import random
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow.parquet as pq

from etl.build import build
from etl.close import close
from etl.export.month import export
from etl.seals import check_outputs, read_seals, sha256_of
from etl.sources import read_sources
from etl.verify import verify
from proxy.journal import PROXY_SLOT, Journal, JournalError
from proxy.seal import seal
from schemas import manifest
from schemas.frames import Frame
from schemas.home import Home
from schemas.instants import parse_instant
from schemas.records import Event, Instant, Record
from schemas.spool import unsealed
from tests.faults import Site, arm, in_fork, limit_files
from tests.rawdata import call, event, rows, topup, write_book

AFTER = Instant(parse_instant("2026-11-03T00:00:00Z"))
PERIOD = "2026-10"
SEGMENT_BYTES = 4096
HANG_S = 60
DIED = (-signal.SIGKILL, 0)
TOLD = (0, 1)

Fault = tuple[int, bool]  # the error (0: kill), and whether it stays
FAULTS: tuple[Fault, ...] = (
    (errno.EIO, False),
    (errno.EIO, True),
    (errno.ENOSPC, False),
    (errno.ENOSPC, True),
    (errno.EDQUOT, True),
    (errno.EMFILE, False),
)


class PromiseError(AssertionError):
    """A promise that was not kept, with the fault that broke it."""


@dataclass(frozen=True)
class Recording:
    """A home whose journal is written and sealed; what was acknowledged is noted outside it."""

    home: Home
    notes: Path

    def work(self) -> None:
        """Start, append and seal, acknowledge, and end as the proxy does."""
        notes = os.open(self.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        first = len(self.notes.read_bytes().split())
        journal = Journal(self.home, PROXY_SLOT, segment_bytes=SEGMENT_BYTES)
        refused = 0
        for number in range(first, first + 24, 2):
            names = [f"e{number}.{os.getpid()}", f"e{number + 1}.{os.getpid()}"]
            try:
                journal.append_wait([_event(name) for name in names])
            except JournalError:
                refused += 1
            else:
                os.write(notes, "".join(f"{name}\n" for name in names).encode())
            if number == first + 10:
                seal(self.home, AFTER)
        journal.close()
        seal(self.home, AFTER)
        if refused:
            raise JournalError(errno.EIO, f"{refused} appends were refused")

    def keeps(self, *, losses: bool) -> None:
        """Start again, and hold it to what was acknowledged: there, and once. A loss may be told only where a call failed."""
        journal = Journal(self.home, PROXY_SLOT, segment_bytes=SEGMENT_BYTES)
        journal.append_wait([_event(f"next.{os.getpid()}")])
        journal.close()
        seal(self.home, AFTER)
        found = events(self.home)
        known = set(self.notes.read_text().split())
        twice = [name for name, times in found.items() if times > 1]
        findings = [finding for finding in read_sources(self.home).findings if finding.kind != "damage" and not losses]
        if twice or known - set(found) or findings:
            raise PromiseError(f"twice {twice}, lost {sorted(known - set(found))}, findings {findings}")


def _event(name: str) -> Event:
    return event(name, "test")


def events(home: Home) -> Counter[str]:
    """How often each event is there, sealed or in the spool."""
    seals = manifest.read(home.manifest)
    found: list[str] = []
    for file in (file for line in seals for file in line.files if file.kind == "event"):
        if sha256_of(home.raw / file.path) != file.sha256:
            raise PromiseError(f"{file.path} is not what was sealed")
        found += pq.ParquetFile(home.raw / file.path).read(columns=["event_id"]).column(0).to_pylist()
    spooled = {piece.seq: piece for _, piece, _ in unsealed(home, manifest.sealed_up_to(seals)) if isinstance(piece, Frame)}
    return Counter(found + [piece.fields["event_id"] for piece in spooled.values()])


@dataclass(frozen=True)
class Books:
    """A home with a published ledger and a new month to build, close and export."""

    home: Home

    @property
    def out(self) -> Path:
        return self.home.root / "out.csv"

    def prepare(self) -> None:
        """One request published; a second one sealed, not built yet."""
        write_book(self.home)
        self._record([topup("t1", "100"), *call("n1")])
        build(self.home)
        export(self.home, "csv", PERIOD, self.out)
        self._record(call("n2"))

    def _record(self, records: Sequence[Record]) -> None:
        journal = Journal(self.home, PROXY_SLOT, segment_bytes=SEGMENT_BYTES)
        journal.append_wait(records)
        journal.close()
        seal(self.home, AFTER)

    def work(self) -> None:
        """What `tokenledger ledger` and `tokenledger export` do."""
        close(self.home, AFTER)
        export(self.home, "csv", PERIOD, self.out)

    def keeps(self) -> None:
        """The old ledger or the new one, whole months, a whole export; and run again, all of it is there."""
        seen = [row["request_id"] for row in rows(self.home, "SELECT request_id FROM ledger ORDER BY 1")]
        lines = self.out.read_text().count("\n")
        if seen not in (["n1"], ["n1", "n2"]) or lines not in (2, 3):
            raise PromiseError(f"a mix: ledger {seen}, export of {lines} lines")
        for month in read_seals(self.home):
            check_outputs(self.home, month)
        self.work()
        verify(self.home)
        if self.out.read_text().count("\n") != 3:
            raise PromiseError("the export was not made again")


def sites(work: Callable[[], None], root: Path) -> list[str]:
    """The calls that the work makes below `root`, in order."""
    noted = root.with_name("sites.json")
    site = Site(str(root), 0, 0)

    def count() -> None:
        arm(site)
        try:
            work()
        finally:
            noted.write_bytes(orjson.dumps(site.names))

    code, words = in_fork(count, lambda: None)
    if code:
        raise PromiseError(f"without a fault: {words}")
    found: list[str] = orjson.loads(noted.read_bytes())
    return found


def faulted(work: Callable[[], None], site: Site, allowed: tuple[int, ...], what: str) -> int:
    """The work with a fault at a place; the exit code. Raises PromiseError for anything but an orderly end."""

    def fault() -> None:
        signal.alarm(HANG_S)
        arm(site)

    code, words = in_fork(work, fault)
    if code not in allowed:
        raise PromiseError(f"{what}: ended with {code}: {words}")
    return code


def kept(promise: Callable[[], None], what: str) -> None:
    """Hold a home to its promise, without a fault."""
    code, words = in_fork(promise, lambda: None)
    if code:
        raise PromiseError(f"{what}: {words}")


def spread(of: int, count: int) -> Iterator[int]:
    """At most `count` of the places 1 to `of`, evenly."""
    step = max(1.0, of / count)
    yield from sorted({1 + int((number + 0.5) * step) for number in range(min(of, count))})


# ---- the rounds ----


def kills(folder: Path, count: int) -> dict[str, int]:
    """Kill -9 while the journal is written, sealed and recovered: half before a call chosen at random, half at a random moment."""
    chance = random.Random(count)
    recording = Recording(Home(folder / "home"), folder / "notes")
    recording.home.root.mkdir()
    made = len(sites(recording.work, recording.home.root))
    died = number = 0
    while died < count:
        what = f"kill {number}"
        if number % 2:
            died += faulted(recording.work, Site(str(recording.home.root), chance.randint(1, made), 0), DIED, what) != 0
        else:
            died += faulted(functools.partial(_killed_at, recording.work, chance.uniform(0, 0.06)), Site("", 0, 0), DIED, what) != 0
        number += 1
        if number % 10 == 0 or died == count:
            kept(functools.partial(recording.keeps, losses=False), what)
    return {"kills of the proxy survived": died}


def _killed_at(work: Callable[[], None], seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    work()


def recording_faults(folder: Path, count: int) -> dict[str, int]:
    """Each call of journal and sealer fails, once and from then on, with EIO, ENOSPC, EDQUOT and EMFILE."""
    template = Recording(Home(folder / "template"), folder / "notes")
    template.home.root.mkdir()
    template.work()
    made = sites(template.work, template.home.root)
    done = 0
    for place in spread(len(made), count):
        for error, for_good in FAULTS[place % len(FAULTS) :][:1] if count < len(made) else FAULTS:
            round_ = Recording(Home(folder / "home"), folder / "round")
            _fresh(template.home, round_.home)
            shutil.copy(template.notes, round_.notes)
            what = f"{errno.errorcode[error]} {'from' if for_good else 'at'} call {place}, {made[place - 1]}"
            faulted(round_.work, Site(str(round_.home.root), place, error, for_good), TOLD, what)
            kept(functools.partial(round_.keeps, losses=True), what)
            done += 1
    return {"fault sites of write and seal": len(made), "faults of write and seal survived": done}


def book_faults(folder: Path, count: int) -> dict[str, int]:
    """Build, close and export: killed before a call, or the call fails, once and from then on; then files that cannot grow."""
    template = Books(Home(folder / "template"))
    template.home.root.mkdir()
    kept(template.prepare, "preparing")
    books = Books(Home(folder / "home"))
    _fresh(template.home, books.home)
    made = sites(books.work, books.home.root)
    died = done = 0
    plans: tuple[Fault, ...] = ((0, False), *FAULTS)
    for turn, place in enumerate(spread(len(made), count)):
        for error, for_good in plans[turn % len(plans) :][:1] if count < len(made) else plans:
            _fresh(template.home, books.home)
            what = f"{errno.errorcode.get(error, 'kill')} {'from' if for_good else 'at'} call {place}, {made[place - 1]}"
            faulted(books.work, Site(str(books.home.root), place, error, for_good), TOLD if error else DIED, what)
            kept(books.keeps, what)
            died += not error
            done += bool(error)
    for size in (1 << 12,) if count < len(made) else range(0, 1 << 19, 1 << 13):
        _fresh(template.home, books.home)
        code, words = in_fork(books.work, functools.partial(limit_files, size))
        if code not in TOLD:
            raise PromiseError(f"files of at most {size} bytes: ended with {code}: {words}")
        kept(books.keeps, f"files of at most {size} bytes")
        done += 1
    return {
        "fault sites of build, close and export": len(made),
        "faults of build, close and export survived": done,
        "kills of the build survived": died,
    }


def _fresh(template: Home, home: Home) -> None:
    shutil.rmtree(home.root, ignore_errors=True)
    shutil.copytree(template.root, home.root)


ROUNDS = {"kills": kills, "recording": recording_faults, "books": book_faults}


if __name__ == "__main__":
    try:
        result = ROUNDS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    except PromiseError as error:
        sys.exit(str(error))
    sys.stdout.write(orjson.dumps(result).decode())
