"""Golden connections: one folder a WebSocket, played frame by frame through both doors, each billable turn to its charge.

A case is `socket.toml` with `frames.txt` beside it: a line a frame in the order of the wire, `>` from the client and `<` from the vendor.

    says      one sentence that is true
    path      below the base URL
    [prices."MODEL"]   meter -> price per million units
    [[turn]]  each billable line in the order in which the client's frames or voice began them: [turn.ledger] columns, [turn.meters]
              meter -> quantity, and `worked`, the charge by hand
`@DOOR@` in a frame stands for the door's name.
"""

from __future__ import annotations

import asyncio
import ssl
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from etl.build import build
from schemas.home import Home
from tests.certs import Authority, Leaf
from tests.journey import DOORS, sockets
from tests.sidecar import Priced, Way, seal_all, sidecar, write_book


@dataclass(frozen=True)
class Socket:
    """One golden connection as its folder says it."""

    name: str
    says: str
    path: str
    frames: tuple[tuple[str, str], ...]
    prices: tuple[Priced, ...]
    turns: tuple[dict[str, Any], ...]

    def script(self, door: str) -> list[tuple[str, str]]:
        """Who says what, in order."""
        return [(who, text.replace("@DOOR@", door)) for who, text in self.frames]


def _socket(path: Path) -> Socket:
    facts = tomllib.loads(path.read_text())
    lines = (path.parent / "frames.txt").read_text().splitlines()
    prices = tuple(Priced("official", model, meter, price) for model, its in facts["prices"].items() for meter, price in its.items())
    return Socket(
        path.parent.name, facts["says"], facts["path"], tuple((line[0], line[2:]) for line in lines), prices, tuple(facts["turn"])
    )


SOCKETS = [_socket(path) for path in sockets()]
TRIPS = [pytest.param(case, door, id=f"{case.name}-{door}") for case in SOCKETS for door in DOORS]


@dataclass(frozen=True)
class Played:
    """What each end of each connection received, and the ledger that came of it."""

    client: dict[str, list[str]]
    vendor: dict[str, list[str]]
    ledger: duckdb.DuckDBPyConnection


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, authority: Authority, leaf: Leaf) -> Played:
    """All connections through one sidecar, then one build."""
    return asyncio.run(_play_all(Home(tmp_path_factory.mktemp("sockets") / "home"), authority, leaf))


async def _play_all(home: Home, authority: Authority, leaf: Leaf) -> Played:
    client: dict[str, list[str]] = {}
    vendor: dict[str, list[str]] = {}
    now: list[tuple[str, list[tuple[str, str]]]] = []

    async def answer(connection: ServerConnection) -> None:
        name, script = now[-1]
        vendor[name] = []
        for who, text in script:
            if who == "<":
                await connection.send(text)
            else:
                vendor[name].append(str(await connection.recv()))
        await connection.wait_closed()

    async with serve(answer, "127.0.0.1", 0, ssl=leaf.server_context()) as server:
        base = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        write_book(home, [Way("official", base)], prices=list(dict.fromkeys(price for case in SOCKETS for price in case.prices)))
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            for case in SOCKETS:
                for door in DOORS:
                    name = f"{case.name}-{door}"
                    now.append((name, case.script(door)))
                    trusted = ssl.create_default_context(cafile=str(home.ca / "mitmproxy-ca-cert.pem")) if door == "forward" else None
                    url = (base if trusted else running.base_url).replace("http", "ws", 1) + case.path
                    headers = {"Authorization": "Bearer sk-golden-0123456789abcdef", "x-ledger-run": name}
                    proxy = running.forward if trusted else None
                    async with connect(url, additional_headers=headers, proxy=proxy, ssl=trusted) as socket:
                        client[name] = []
                        for who, text in case.script(door):
                            if who == ">":
                                await socket.send(text)
                            else:
                                client[name].append(str(await asyncio.wait_for(socket.recv(), 15)))
    seal_all(home)
    build(home)
    return Played(client, vendor, duckdb.connect(str(home.ledger_file), read_only=True))


def _turns(played: Played, name: str) -> list[dict[str, Any]]:
    cursor = played.ledger.execute(
        "select * from ledger where run_id = ? and endpoint not like '%.connection' order by created_at, request_id", [name]
    )
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@pytest.mark.parametrize(("case", "door"), TRIPS)
def test_each_end_got_what_the_other_wrote(played: Played, case: Socket, door: str) -> None:
    """Every frame to the byte, in order, in both directions."""
    name, script = f"{case.name}-{door}", case.script(door)
    assert played.client[name] == [text for who, text in script if who == "<"]
    assert played.vendor[name] == [text for who, text in script if who == ">"]


@pytest.mark.parametrize(("case", "door"), TRIPS)
def test_each_turn_is_charged_as_worked_by_hand(played: Played, case: Socket, door: str) -> None:
    """A row of the ledger for each turn and each transcription, with its meters and its charge; the connection itself is free."""
    found = _turns(played, f"{case.name}-{door}")
    assert len(found) == len(case.turns)
    for row, turn in zip(found, case.turns, strict=True):
        assert {name: _written(row[name]) for name in turn["ledger"]} == {name: _written(value) for name, value in turn["ledger"].items()}
        lines = played.ledger.execute("select meter, quantity from charges where request_id = ?", [row["request_id"]]).fetchall()
        assert dict(lines) == turn["meters"]


def test_each_connection_is_a_free_row_beside_its_turns(played: Played) -> None:
    """Its id is the one that the upgrade's answer carries."""
    rows = played.ledger.execute("select run_id, final_charge from ledger where endpoint like '%.connection' order by run_id").fetchall()
    assert rows == [(name, Decimal(0)) for name in sorted(f"{case.name}-{door}" for case in SOCKETS for door in DOORS)]


def test_every_turn_has_its_charge_worked(played: Played) -> None:
    """A sentence, and for each turn the arithmetic and the charge."""
    assert all(case.says.endswith(".") for case in SOCKETS)
    assert all(turn["worked"] and "final_charge" in turn["ledger"] for case in SOCKETS for turn in case.turns)


def _written(value: object) -> object:
    """Amounts compare by value whatever zeros they are written with."""
    return Decimal(str(value)).normalize() if isinstance(value, Decimal) or (isinstance(value, str) and value[:1].isdigit()) else value
