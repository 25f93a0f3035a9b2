"""The SQL box: one question in a process of its own, without files, network, settings, or more than its share of memory and time.

DuckDB is shut first (read-only, no external access, configuration locked); the operating system is the second wall: the
child has no environment, may write no file, and is ended when its time is over.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.adhoc import QueryError
from etl.published import open_ledger
from etl.table import cell
from schemas.errors import LedgerError
from schemas.home import Home

if TYPE_CHECKING:
    import duckdb

SECONDS = 10
MEMORY_MB = 512
ROWS = 1000  # shown on the page; the download has MOST_ROWS
MOST_ROWS = 100_000
ANSWER_CHARACTERS = 16 << 20  # of all cells together
AT_ONCE = 2  # processes; further questions wait for their turn
_ADDRESS_SPACE = 2 << 30  # DuckDB maps more than it uses; its own limit is MEMORY_MB
_turns = asyncio.Semaphore(AT_ONCE)


class BoxError(LedgerError):
    """The query was refused, or ran out of time or memory."""


@dataclass(frozen=True, slots=True)
class Result:
    """The columns, the rows as texts (None: null), which columns are numbers, and whether there were more rows."""

    columns: list[str]
    rows: list[list[str | None]]
    numeric: list[bool]
    more: bool


async def ask(home: Home, query: str, *, rows: int = ROWS) -> Result:
    """What the query answers. Raises BoxError with DuckDB's words, or with what ran out."""
    async with _turns:
        return await _ask(home, query, rows)


async def _ask(home: Home, query: str, rows: int) -> Result:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", _BOOT, str(Path(__file__).parent.parent), str(home.root), str(rows),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env={},
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(child.communicate(query.encode("utf-8", "surrogatepass")), SECONDS)
    except TimeoutError:
        raise BoxError(f"the query ran longer than {SECONDS} s and was ended", "ask for less: one month, fewer columns, a LIMIT") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        told = json.loads(out)
    except ValueError:
        raise BoxError(
            f"the query needed more than {MEMORY_MB} MB and was ended", "ask for less: one month, fewer columns, a LIMIT"
        ) from None
    if "error" in told:
        raise BoxError(told["error"], "the tables and their columns are listed beside the box")
    return Result(**told)


_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from web.sqlbox import child; child(sys.argv[2], int(sys.argv[3]))"


def child(root: str, rows: int) -> None:
    """The process's whole life: read the query from stdin, answer in JSON on stdout."""
    query = sys.stdin.buffer.read().decode("utf-8", "replace")
    try:
        answer = _answer(Home(Path(root)), query, rows)
    except LedgerError as error:
        answer = {"error": error.what}
    except MemoryError:
        answer = {"error": f"the query needed more than {MEMORY_MB} MB"}
    sys.stdout.write(json.dumps(answer))


def _answer(home: Home, query: str, rows: int) -> dict[str, Any]:
    import duckdb  # noqa: PLC0415  the server's process asks through the child only

    with open_ledger(home, limits={"memory_limit": f"{MEMORY_MB}MB", "threads": "1", "temp_directory": ""}, sealed_off=True) as connection:
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        try:
            asked = connection.execute(query)
            described = asked.description or []
            found, has_more = _rows(asked, rows)
        except duckdb.Error as error:
            raise QueryError(error) from None
    return {
        "columns": [column[0] for column in described],
        "rows": found,
        "numeric": [
            kind.startswith(("DECIMAL", "BIGINT", "INTEGER", "HUGEINT", "DOUBLE", "SMALLINT", "UBIGINT"))
            for kind in (str(column[1]) for column in described)
        ],
        "more": has_more,
    }


def _rows(asked: duckdb.DuckDBPyConnection, most: int) -> tuple[list[list[str | None]], bool]:
    """The first rows as texts, and whether there are more. Raises BoxError where they are longer than a page can hold."""
    found: list[list[str | None]] = []
    length = 0
    while (row := asked.fetchone()) is not None:
        if len(found) == most:
            return found, True
        texts = [None if value is None else cell(value) for value in row]
        length += sum(len(value) for value in texts if value is not None)
        if length > ANSWER_CHARACTERS:
            raise BoxError(f"the answer is longer than {ANSWER_CHARACTERS:,} characters", "ask for fewer rows, or shorter texts")
        found.append(texts)
    return found, False
