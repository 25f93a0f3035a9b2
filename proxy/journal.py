"""The durable journal: a record is acknowledged when it is on the disk, and not before.

One writer thread takes everything that is queued, writes it at once and syncs once (group commit without a timer:
while one sync runs, the next batch gathers). Segments are preallocated, so that a sync has no new file size to write.

A file whose write or fsync failed once is finished: what the kernel says of it afterwards proves nothing. The batch
is tried once more in a new segment; if that fails too, everybody in it is told, and the next append begins afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import uuid_utils

from schemas import durable, manifest
from schemas.errors import UsageError
from schemas.frames import Damage, Frame, decode, frame, payload
from schemas.home import Home
from schemas.records import Record
from schemas.spool import LOCK_FILE, WRITER_FILE, Slot, segment_name

SEGMENT_BYTES = 64 << 20
SMALL_SEGMENT_BYTES = 1 << 20  # where there is no room for such a one
ADMIN_SLOT = "admin"


def slot_of(number: int) -> str:
    """The journal slot of a proxy's worker."""
    return f"proxy-{number}"


PROXY_SLOT = slot_of(0)  # of a proxy that is one process


class JournalError(OSError):
    """Records that could not be made durable; nothing that depends on them may be done."""


class JournalBusyError(UsageError):
    """Another process holds this journal."""


class JournalUnusableError(UsageError):
    """The journal's folder cannot be written."""


Written = Callable[[], None]
Failed = Callable[[JournalError], None]


class _Entry:
    """Records that belong together, and who is told when they are written, or could not be: in this event loop, or where the writer is."""

    __slots__ = ("contents", "failed", "loop", "written")

    def __init__(self, records: Sequence[Record], written: Written | None, failed: Failed, loop: asyncio.AbstractEventLoop | None) -> None:
        self.contents = _payloads(records)
        self.written = written
        self.failed = failed
        self.loop = loop


class Journal:
    """One slot's journal, held by one process under a lock."""

    def __init__(self, home: Home, slot: str, *, segment_bytes: int = SEGMENT_BYTES, wait_s: float = 0.0) -> None:
        """Take the slot's lock, recover what a crash left, and start the writer thread.

        Raises JournalBusyError if another process holds the slot longer than `wait_s`, and JournalUnusableError if the
        folder cannot be written.
        """
        self.home = home
        self.folder = home.spool / slot
        self.truncated_bytes = 0
        self._segment_bytes = segment_bytes
        try:
            durable.make_folder(self.folder)
            self._lock = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalUnusableError(f"{self.folder}: {error.strerror}", f"make {home.root} writable, or name another --home") from None
        _take_lock(self._lock, self.folder, wait_s)
        try:
            self.writer = _writer_name(self.folder)
            self._next_seq = self._recover()
            self._fd = -1
            self._offset = 0
            self._segment_end = 0
            self._open_segment(0)
        except OSError as error:
            os.close(self._lock)
            raise JournalUnusableError(f"{self.folder}: {error.strerror}", f"make {home.root} writable, or free space there") from None
        self._queue: deque[_Entry] = deque()
        self._queue_lock = threading.Lock()
        self._wake = threading.Condition(self._queue_lock)
        self._closing = False
        self._thread = threading.Thread(target=self._write_loop, name=f"journal-{slot}", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Entries not yet taken by the writer."""
        return len(self._queue)

    def append(self, records: Sequence[Record]) -> asyncio.Future[None]:
        """A future that is done when the records are on the disk, or fails with JournalError."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._hand_in(_Entry(records, functools.partial(_resolve, future), functools.partial(_reject, future), loop), loop)
        return future

    def post(self, records: Sequence[Record], failed: Failed, written: Written | None = None) -> None:
        """Write records that nobody waits for; the loop is told if they cannot be, and if they are where somebody asks. Raises JournalError."""
        loop = asyncio.get_running_loop()
        self._hand_in(_Entry(records, written, failed, loop), loop)

    def append_wait(self, records: Sequence[Record]) -> None:
        """Wait until the records are on the disk; raises JournalError. For callers without an event loop."""
        done = threading.Event()
        errors: list[JournalError] = []

        def failed(error: JournalError) -> None:
            errors.append(error)
            done.set()

        self._enqueue(_Entry(records, done.set, failed, None))
        self._wake_writer()
        done.wait()
        if errors:
            raise errors[0]

    def _hand_in(self, entry: _Entry, loop: asyncio.AbstractEventLoop) -> None:
        if self._enqueue(entry):
            loop.call_soon(self._wake_writer)  # once for all that is handed in before the loop turns again

    def close(self) -> None:
        """Write what is queued, give the unused part of the segment back, and release the slot."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        if self._fd >= 0:
            os.ftruncate(self._fd, self._offset)
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
        os.close(self._lock)

    def _enqueue(self, entry: _Entry) -> bool:
        """Whether it is the first of those that wait."""
        with self._queue_lock:
            if self._closing:
                raise JournalError("the journal is closed")
            self._queue.append(entry)
            return len(self._queue) == 1

    def _wake_writer(self) -> None:
        with self._queue_lock:
            self._wake.notify()

    def _write_loop(self) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                batch = list(self._queue)
                self._queue.clear()
                if not batch:
                    return
            error = self._write(batch)
            _acknowledge(batch, error)

    def _write(self, batch: list[_Entry]) -> JournalError | None:
        seq = self._next_seq
        frames = []
        for entry in batch:
            for content in entry.contents:
                frames.append(frame(content, seq))
                seq += 1
        data = b"".join(frames)
        for fresh in (False, True):
            try:
                if fresh or self._fd < 0 or self._offset + len(data) > self._segment_end:
                    self._open_segment(len(data))
                _write_all(self._fd, data, self._offset)
                os.fdatasync(self._fd)
            except OSError as error:
                self._abandon_segment()
                failure = JournalError(error.errno, f"journal {self.folder.name}: {error.strerror}")
                continue
            self._offset += len(data)
            self._next_seq = seq
            return None
        # Part of the batch may lie in an abandoned segment: its numbers are not given out a third time.
        self._next_seq = seq
        return failure

    def _open_segment(self, at_least: int) -> None:
        """A fresh preallocated segment; the one before it gives its unused part back."""
        if self._fd >= 0:
            os.ftruncate(self._fd, self._offset)
            os.close(self._fd)
            self._fd = -1
        path = self.folder / segment_name(self._next_seq)
        while path.exists():  # an abandoned or empty segment of the same number: never write into it again
            path = path.with_name(path.stem + "a" + path.suffix)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # see schemas.spool.is_live
            size = _allocated(fd, max(self._segment_bytes, at_least, 4096), max(SMALL_SEGMENT_BYTES, at_least))
            os.fsync(fd)
            durable.sync(self.folder)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._offset, self._segment_end = fd, 0, size

    def _abandon_segment(self) -> None:
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):  # it is given up because of an error already; nothing more is asked of it
                os.close(descriptor)

    def _recover(self) -> int:
        """The next sequence number. A torn tail, which nobody was told is durable, is cut off and kept aside."""
        last = manifest.sealed_up_to(manifest.read(self.home.manifest)).get(self.writer, 0)
        segments = Slot(self.folder, self.writer).segments()
        for path in segments:
            data = path.read_bytes()
            end = 0
            for found in decode(data):
                if isinstance(found, Frame):
                    last = max(last, found.seq)
                    end = found.end
                elif isinstance(found, Damage) and path == segments[-1] and found.end == len(data):
                    self._cut_tail(path, data, found.offset)
                    end = found.offset
            if path == segments[-1] and end < len(data):
                os.truncate(path, end)
        return last + 1

    def _cut_tail(self, path: Path, data: bytes, offset: int) -> None:
        torn = data[offset:].rstrip(b"\0")
        self.truncated_bytes += len(torn)
        aside = path.with_suffix(".torn")
        aside.write_bytes(torn)
        os.chmod(aside, 0o600)


def append_once(home: Home, slot: str, records: Sequence[Record]) -> None:
    """Take the slot, append, release it. Raises JournalBusyError after 5 seconds, JournalError if it cannot be durable."""
    journal = Journal(home, slot, segment_bytes=0, wait_s=5.0)
    try:
        journal.append_wait(records)
    finally:
        journal.close()


def _payloads(records: Sequence[Record]) -> list[bytes]:
    """Made by who hands them in: a text that is no Unicode is that record's fault, and the writer goes on for all others."""
    try:
        return [payload(record) for record in records]
    except UnicodeEncodeError as error:
        raise JournalError(f"a record that cannot be written: {error}") from None


def _acknowledge(batch: list[_Entry], error: JournalError | None) -> None:
    """Tell everybody in the batch, with one wake-up per event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Written]] = {}
    for entry in batch:
        told = entry.written if error is None else functools.partial(entry.failed, error)
        if told is None:
            continue
        if entry.loop is None:
            told()
        else:
            loops.setdefault(entry.loop, []).append(told)
    for loop, everybody in loops.items():
        try:
            loop.call_soon_threadsafe(_tell, everybody)
        except RuntimeError:
            continue  # that loop is closed: nobody waits there any more


def _tell(everybody: list[Written]) -> None:
    for told in everybody:
        told()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _reject(future: asyncio.Future[None], error: JournalError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever waited may have left


def _allocated(fd: int, size: int, least: int) -> int:
    """Give an empty file its room: `size` bytes, or `least` on a disk that is nearly full; how many. Raises OSError."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or least >= size:
            raise
        os.ftruncate(fd, 0)
        os.posix_fallocate(fd, 0, least)
        return least
    return size


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        if written == 0:
            raise OSError("write made no progress")
        view = view[written:]
        offset += written


def _take_lock(lock: int, folder: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(lock)
                cure = "stop the other one, or give this one another --home"
                raise JournalBusyError(f"another process is writing the journal {folder}", cure) from None
            time.sleep(0.05)
        else:
            return


def _writer_name(folder: Path) -> str:
    """The name this journal's frames carry for ever: made once, unique over all homes."""
    path = folder / WRITER_FILE
    if path.exists():
        return path.read_text().strip()
    name = f"{folder.name}-{uuid_utils.uuid7().hex[-12:]}"
    durable.replace(path, f"{name}\n".encode())
    return name
