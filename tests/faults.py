"""Faults on purpose: power cuts, calls that fail, and kills, each at a place that can be counted and named.

A power cut keeps what was synced and nothing else: a file's bytes as of its last fsync, a folder's names as of its own. It
is harsher than any file system, so what survives it survives theirs.

A failing call is made to fail in the process that makes it, by an audit hook (open, rename, unlink, mkdir, truncate) and
by standing before `os` (fsync, fdatasync, pwrite, fallocate, ftruncate). Code that is not Python is met by a limit on the
size of files, which the kernel enforces.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SYNCS = ("fsync", "fdatasync")
CALLS = (*SYNCS, "pwrite", "posix_fallocate", "ftruncate")
AUDITED = {"open": "open", "os.rename": "rename", "os.remove": "unlink", "os.mkdir": "mkdir", "os.truncate": "truncate"}

Node = int  # an inode


@dataclass(frozen=True)
class Disk:
    """What a power cut would leave: bytes of files and names in folders, by inode, as they were last synced."""

    root: Node
    files: Mapping[Node, bytes]
    folders: Mapping[Node, Mapping[str, tuple[Node, bool]]]  # name -> inode, and whether it is a folder

    def write(self, target: Path) -> None:
        """Lay it out below `target`, which is made anew."""
        shutil.rmtree(target, ignore_errors=True)
        self._lay(target, self.root)

    def _lay(self, target: Path, node: Node) -> None:
        target.mkdir()
        for name, (child, is_folder) in self.folders.get(node, {}).items():
            if is_folder:
                self._lay(target / name, child)
            else:
                (target / name).write_bytes(self.files.get(child, b""))


@dataclass
class Power:
    """Watches every sync below a folder; `cuts` holds the disk after each, and `said` as it was then."""

    root: Path
    said: Callable[[], Any]
    files: dict[Node, bytes] = field(default_factory=dict)
    folders: dict[Node, Mapping[str, tuple[Node, bool]]] = field(default_factory=dict)
    cuts: list[tuple[Disk, Any]] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """Take what lies here, and below it, as synced."""
        self._take(path)
        if path.is_dir():
            for child in path.iterdir():
                self.keep(child)

    def synced(self, descriptor: int) -> None:
        """A descriptor was synced."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path == self.root or self.root in path.parents:
            self._take(path)
            self.cuts.append((Disk(self.root.stat().st_ino, dict(self.files), dict(self.folders)), self.said()))

    def _take(self, path: Path) -> None:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            self.files[status.st_ino] = path.read_bytes()
            return
        names = {}
        for child in path.iterdir():
            names[child.name] = (child.stat().st_ino, child.is_dir())
        self.folders[status.st_ino] = names


@contextmanager
def power(root: Path, said: Callable[[], Any]) -> Iterator[Power]:
    """Watch what becomes durable below `root`; what is there already counts as durable."""
    watch = Power(root, said)
    watch.keep(root)
    real = {name: getattr(os, name) for name in SYNCS}

    def standing_for(name: str) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            real[name](descriptor)
            watch.synced(descriptor)

        return sync

    for name in SYNCS:
        setattr(os, name, standing_for(name))
    try:
        yield watch
    finally:
        for name in SYNCS:
            setattr(os, name, real[name])


@dataclass
class Site:
    """One fault: at the `at`-th counted call below `root` (from 1; 0: nowhere), once or from then on; errno 0 kills instead."""

    root: str
    at: int
    error: int
    for_good: bool = False
    only: str = ""  # count this kind of call alone
    count: int = 0
    names: list[str] = field(default_factory=list)
    failed_syncs: set[str] = field(default_factory=set)

    def passing(self, call: str, path: str) -> None:
        """Count a call, and make it fail where it is the one. Raises OSError, and AssertionError where a failed file is synced again."""
        if not path.startswith(self.root) or (self.only and call != self.only):
            return
        if call in SYNCS and path in self.failed_syncs:
            os.write(2, f"synced again after it failed: {path}\n".encode())
            os._exit(70)
        if call == "unlink":
            self.failed_syncs.discard(path)  # another file may have the name from here on
        self.count += 1
        self.names.append(call)
        if self.at and (self.count == self.at or (self.for_good and self.count > self.at)):
            if not self.error:
                os.kill(os.getpid(), signal.SIGKILL)
            if call in SYNCS and not Path(path).is_dir():
                self.failed_syncs.add(path)
            raise OSError(self.error, os.strerror(self.error), path)


def arm(site: Site) -> None:
    """Let the fault happen in this process; for the rest of its life."""

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        call = AUDITED.get(event)
        if call is not None and isinstance(arguments[0], str | os.PathLike):
            site.passing(call, os.fspath(arguments[0]))

    def standing_before(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(descriptor: int, *rest: Any) -> Any:
            site.passing(name, _path(descriptor))
            return real(descriptor, *rest)

        return call

    for name in CALLS:
        setattr(os, name, standing_before(name))
    sys.addaudithook(heard)


def _path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def limit_files(size: int) -> None:
    """No file of this process grows beyond so many bytes: a short write, then EFBIG, in any code."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def in_fork(work: Callable[[], None], fault: Callable[[], None]) -> tuple[int, str]:
    """Do the work with the fault in a fork; its exit code (negative: the signal) and what it said.

    0: done; 1: an OSError or an error of ours, which is what a fault may cause; 2: anything else.
    """
    from schemas.errors import LedgerError  # noqa: PLC0415  as late as the work itself

    said, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(said)
        os.dup2(write, 2)
        code = 2
        try:
            fault()
            work()
            code = 0
        except (OSError, LedgerError) as error:
            code = 1
            os.write(2, f"{type(error).__name__}: {error}".encode())
        except BaseException as error:  # noqa: BLE001  told to the parent, which fails
            os.write(2, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(code)
    os.close(write)
    with open(said, encoding="utf-8", errors="replace") as pipe:
        words = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), words
