"""Questions to the published ledger, each on a connection of its own in a thread, with a limit on its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import duckdb

from etl.published import open_ledger
from schemas.errors import LedgerError
from schemas.home import Home

T = TypeVar("T")
LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page is made from: the published ledger, the home folder, and the query string of the address."""

    db: duckdb.DuckDBPyConnection
    home: Home
    query: Mapping[str, Sequence[str]]

    def one(self, name: str) -> str:
        """The first value of a name in the query string, empty where there is none."""
        return (self.query.get(name) or [""])[0].strip()


class TooSlowError(LedgerError):
    """A page's question took too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the ledger did not answer within {seconds:g} s", "choose one month, or narrow the search")


class Reading:
    """The published ledger, opened anew for each question, so that a build is seen by the next one."""

    def __init__(self, home: Home, workers: int = 4) -> None:
        self.home = home
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="ledger")

    async def ask(self, question: Callable[[Asked], T], query: Mapping[str, Sequence[str]]) -> T:
        """What `question` answers to a query string. Raises NoLedgerError, LedgerUnreadableError or TooSlowError."""
        opened: list[duckdb.DuckDBPyConnection] = []

        def run() -> T:
            with open_ledger(self.home) as connection:
                opened.append(connection)
                return question(Asked(connection, self.home, query))

        return await self._within(run, opened)

    async def work(self, work: Callable[[], T]) -> T:
        """Anything else that reads files, in the same threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _within(self, run: Callable[[], T], opened: list[duckdb.DuckDBPyConnection]) -> T:
        running = asyncio.get_running_loop().run_in_executor(self._threads, run)
        done, _ = await asyncio.wait({running}, timeout=LIMIT_S)
        if not done:
            for connection in opened:
                connection.interrupt()
            await asyncio.wait({running})
            raise TooSlowError(LIMIT_S)
        return running.result()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
