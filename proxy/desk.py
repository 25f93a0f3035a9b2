"""What both doors share at run time: the journal, the clock, the live attempts and the counters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson
import uuid_utils

from proxy.clock import Clock
from proxy.exchange import AttemptCapture, Client, Exchange, Recording, RequestHead
from proxy.held import HeldBody
from proxy.journal import Journal, JournalError
from proxy.losses import LossNote
from schemas.bodykeys import BodyKeys
from schemas.book import Book
from schemas.errors import LedgerError
from schemas.records import Body, Event, Instant, JsonText, Record

CLOCK_STEP_US = 1_000_000


class Refused(Exception):
    """This request may not pass, because it cannot be recorded."""


@dataclass(slots=True)
class Counters:
    """What /metrics shows."""

    requests: int = 0
    attempts: int = 0
    closed: int = 0
    lost_records: int = 0
    refused: int = 0
    tunnels: int = 0


@contextlib.contextmanager
def _key_needed() -> Iterator[None]:
    """A body whose key cannot be had cannot be recorded."""
    try:
        yield
    except (OSError, LedgerError) as error:
        raise JournalError(f"the key of its body: {getattr(error, 'strerror', None) or error}") from None


class Desk:
    """Where records are handed in. A record that cannot be made durable is counted, and the loss itself is recorded."""

    def __init__(self, book: Book, recording: Recording, journal: Journal, clock: Clock, keys: BodyKeys | None = None) -> None:
        """`keys` encrypt the bodies, where the book says so."""
        self.book = book
        self.counters = Counters()
        self.live: set[AttemptCapture] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._recording = recording
        self._journal = journal
        self._clock = clock
        self.now: Callable[[], Instant] = clock.now  # the present instant
        self._spool = journal.home.spool
        self._keys = keys
        self._note = LossNote(journal.folder)
        self._unreported_losses = self._note.count

    def exchange(self, head: RequestHead, client: Client, *, parent: str | None = None) -> Exchange:
        """A new exchange for a request whose head has come, or for a turn of the WebSocket that `parent` opened."""
        self.counters.requests += 1
        return Exchange(str(uuid_utils.uuid7()), head, client, self._recording, self.now(), parent=parent)

    def held_body(self) -> HeldBody:
        """What holds a request's body until it is sent; the file of a large one lies beside the journals."""
        return HeldBody(self._spool)

    async def open(self, records: Sequence[Record], *, refuse: bool) -> None:
        """Make OPEN durable. Where that fails: raise Refused, or count the loss and let the request pass."""
        self.counters.attempts += 1
        before = self._take_losses()
        try:
            await self._make_keys(records)
            await self._journal.append(self._encrypted([*self._loss_event(before), *records]))
        except JournalError as error:
            self._unreported_losses += before
            if refuse:
                self.counters.refused += 1
                raise Refused(f"this request cannot be recorded ({error.strerror or error}), so it was not sent") from None
            self._lost(len(records))
        else:
            self._note.add(-before)

    async def tell(self, events: Sequence[Event]) -> None:
        """Record events of the proxy's own, and before them what was lost. Raises JournalError."""
        before = self._take_losses()
        try:
            await self._journal.append([*self._loss_event(before), *events])
        except JournalError:
            self._unreported_losses += before
            raise
        self._note.add(-before)

    def watch(self, attempt: AttemptCapture) -> None:
        """An attempt is live from here until it is closed."""
        self.live.add(attempt)
        self._idle.clear()

    def unwatch(self, attempt: AttemptCapture) -> None:
        """Nobody waits for this attempt any more: it is closed, or it is a connection whose turns are watched instead."""
        self.live.discard(attempt)
        if not self.live:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no attempt is live."""
        await self._idle.wait()

    def close(self, attempt: AttemptCapture, ending: str, *, relayed: bool, error: str | None = None) -> None:
        """Close an attempt and hand its records in; the first ending stands."""
        records = attempt.close(ending, self.now(), relayed=relayed, error=error)
        self.unwatch(attempt)
        if records:
            self.counters.closed += 1
            self.record(records)

    def record(self, records: Sequence[Record]) -> None:
        """Hand records in without waiting."""
        before = self._take_losses()

        def failed(_: JournalError) -> None:
            self._unreported_losses += before
            self._lost(len(records))

        def written() -> None:
            self._note.add(-before)

        try:
            self._journal.post(self._encrypted([*self._loss_event(before), *records]), failed, written if before else None)
        except JournalError as error:
            failed(error)

    def event(self, kind: str, **facts: object) -> Event:
        """An event of the proxy's own."""
        return Event(event_id=str(uuid_utils.uuid7()), at=self.now(), event=kind, facts=JsonText(orjson.dumps(facts).decode()))

    def check_clock(self) -> None:
        """Take the wall clock's word again, and record a step."""
        stepped_us = self._clock.resync()
        if abs(stepped_us) >= CLOCK_STEP_US:
            self.record([self.event("clock_step", stepped_us=stepped_us)])

    async def _make_keys(self, records: Sequence[Record]) -> None:
        """Have the keys of bodies at hand: a first one waits for the disk, and the loop must not. Raises JournalError."""
        if self._keys is not None:
            for subject in {record.subject for record in records if isinstance(record, Body) and record.subject is not None}:
                if not self._keys.knows(subject):
                    with _key_needed():
                        await asyncio.to_thread(self._keys.of, subject)

    def _encrypted(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records as they are written: bodies encrypted where the book says so. Raises JournalError."""
        if self._keys is None:
            return records
        with _key_needed():
            return [self._keys.encrypted(record) if isinstance(record, Body) else record for record in records]

    def _take_losses(self) -> int:
        losses, self._unreported_losses = self._unreported_losses, 0
        return losses

    def _loss_event(self, records: int) -> list[Event]:
        """What was lost since the journal last worked, to be recorded before anything else."""
        return [self.event("loss", records=records, cause="the journal could not be written")] if records else []

    def _lost(self, count: int) -> None:
        self.counters.lost_records += count
        self._unreported_losses += count
        self._note.add(count)
