"""Golden journeys: one folder a case, from the client's bytes to the receipt, through the real sidecar.

A case is `case.toml` with the bytes beside it:

    says      one sentence that is true
    channel   official (the default) or another name; each channel is a base path of the one upstream
    doors     both by default; the reason stands in `says` where a client cannot use one
    [request]   method, path (below the base URL), headers, body (a file's name; absent: none)
                leaves (true: the client closes its connection once it has the whole body, before upstream has said that it ends)
    [response]  status, headers, body (a file's name), cut (bytes a piece; absent: one piece),
                drop (true: the connection is dropped after the body, before it ends)
                `@DOOR@` in a path or a body stands for the door's name, so that each door's vendor has ids of its own
    [prices]    meter -> price per million units, for this case's model on its channel; [list_prices] the same for the list book,
                [tier_prices.NAME] the same for a service tier, [model_prices."NAME"] the same for another model
    [record]    columns of the raw response row, as they must be
    [ledger]    columns of the ledger row, as they must be; amounts as text
    [meters]    meter -> quantity: all of the request's charged lines; `model/meter` where the model is neither the one sent nor the case's
    [evidence.GATEWAY]  fact -> value: all that the reply tells about the route of a gateway beyond ours
    reason    where the charge is unknown: words of the reason that `unpriced` gives
    worked    the charge worked out by hand, for the reader

`golden/rows.csv` says for each row of what is known of the wire (its endpoints, usage dialects, streams and gateways' signals) which
cases show it.
"""

from __future__ import annotations

import csv
import ssl
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.clients import Door
from tests.sidecar import Priced
from tests.vendor import Answer, Drop, Hold, Step

FOLDER = Path(__file__).parent / "golden"
DOORS = ("gateway", "forward")


@dataclass(frozen=True)
class Case:
    """One golden case as its folder says it."""

    name: str
    says: str
    folder: Path
    channel: str
    doors: tuple[str, ...]
    request: dict[str, Any]
    response: dict[str, Any]
    prices: tuple[Priced, ...]
    record: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    meters: dict[str, int] | None = None
    evidence: dict[str, dict[str, str]] | None = None
    reason: str | None = None

    @property
    def model(self) -> str | None:
        """The model that the prices are for."""
        return self.request.get("model")

    @property
    def leaves(self) -> bool:
        """Whether the client is gone before the answer's end."""
        return bool(self.request.get("leaves"))

    def id(self, door: str) -> str:
        """The client's own id for this journey, by which its row is found."""
        return f"golden-{self.name}-{door}"

    def answer(self, door: str) -> Answer:
        """What the upstream sends, byte for byte."""
        body = self.answered_bytes(door)
        cut = self.response.get("cut") or len(body) or 1
        pieces = tuple(body[at : at + cut] for at in range(0, len(body), cut))
        headers = tuple((name, value) for name, value in self.response.get("headers", {}).items())
        end: tuple[Step, ...] = (Drop(),) if self.response.get("drop") else (Hold(self.id(door)),) if self.leaves else ()
        return Answer(self.response.get("status", 200), headers, (*pieces, *end))

    def body(self, door: str) -> bytes:
        """What the client sends."""
        return self._bytes(self.request.get("body"), door)

    def answered_bytes(self, door: str) -> bytes:
        """What must reach the client."""
        return self._bytes(self.response.get("body"), door)

    def path(self, door: str) -> str:
        """Where it is sent, below the base URL."""
        return str(self.request["path"]).replace("@DOOR@", door)

    def _bytes(self, name: str | None, door: str) -> bytes:
        return (self.folder / name).read_bytes().replace(b"@DOOR@", door.encode()) if name else b""


def cases() -> list[Case]:
    """Every golden case, in name order."""
    return [_case(path) for path in sorted(FOLDER.glob("*/case.toml"))]


def _case(path: Path) -> Case:
    facts = tomllib.loads(path.read_text())
    channel = facts.get("channel", "official")
    model = facts["request"].get("model", "*")
    prices = [Priced(channel, model, meter, price) for meter, price in facts.get("prices", {}).items()]
    for tier, tier_prices in facts.get("tier_prices", {}).items():
        prices += [Priced(channel, model, meter, price, tier=tier) for meter, price in tier_prices.items()]
    for other, its_prices in facts.get("model_prices", {}).items():
        prices += [Priced(channel, other, meter, price) for meter, price in its_prices.items()]
    prices += [Priced(channel, model, meter, price, "list") for meter, price in facts.get("list_prices", {}).items()]
    return Case(
        name=path.parent.name,
        says=facts["says"],
        folder=path.parent,
        channel=channel,
        doors=tuple(facts.get("doors", DOORS)),
        request=facts["request"],
        response=facts["response"],
        prices=tuple(prices),
        record=facts.get("record", {}),
        ledger=facts.get("ledger", {}),
        meters=facts.get("meters"),
        evidence=facts.get("evidence"),
        reason=facts.get("reason"),
    )


@dataclass(frozen=True)
class Row:
    """One row of what is known of the wire, and the cases that show it."""

    table: str
    name: str
    cases: tuple[str, ...]


def sockets() -> list[Path]:
    """Every golden connection's `socket.toml`, in name order; tests/test_golden_sockets.py plays them."""
    return sorted(FOLDER.glob("*/socket.toml"))


def rows() -> list[Row]:
    """Every row of `golden/rows.csv`."""
    with (FOLDER / "rows.csv").open(newline="") as file:
        return [Row(row["table"], row["row"], tuple(row["cases"].split())) for row in csv.DictReader(file)]


def prices_of(found: Sequence[Case]) -> list[Priced]:
    """All cases' prices, each once; two cases that price one meter of one model differently contradict each other."""
    known: dict[tuple[str, ...], Priced] = {}
    for case in found:
        for price in case.prices:
            key = (price.channel, price.model, price.meter, price.book, price.tier)
            if known.setdefault(key, price) != price:
                raise ValueError(f"{case.name} prices {key} at {price.price}, another case at {known[key].price}")
    return list(known.values())


async def travel(case: Case, door: Door, name: str) -> tuple[int, bytes]:
    """Send a case's request through a door; the status and the raw bytes that came back."""
    verify: Any = ssl.create_default_context(cafile=str(door.ca)) if door.ca else True
    headers = {
        "authorization": "Bearer sk-golden-0123456789abcdef",
        "x-client-request-id": case.id(name),
        **case.request.get("headers", {}),
    }
    if not any(key.lower() == "accept-encoding" for key in headers):
        headers["accept-encoding"] = "identity"
    method, url = case.request.get("method", "POST"), door.base_url + case.path(name)
    async with (
        httpx2.AsyncClient(proxy=door.proxy, verify=verify, trust_env=False, timeout=20) as http,
        http.stream(method, url, content=case.body(name), headers=headers) as answer,
    ):
        got: list[bytes] = []
        try:
            async for piece in answer.aiter_raw():
                got.append(piece)
                if case.leaves and len(b"".join(got)) == len(case.answered_bytes(name)):
                    break
        except httpx2.RemoteProtocolError:
            if not case.response.get("drop"):
                raise
        return answer.status_code, b"".join(got)
