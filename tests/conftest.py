"""A home with a book, one vendor over TLS and one plain backup, and the real sidecar in front of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from schemas.home import Home
from tests.certs import Authority, Leaf, make_authority
from tests.clients import Door
from tests.journey import cases, rows, sockets
from tests.sidecar import Priced, Sidecar, Way, sidecar, write_book
from tests.upstream import Upstream

# A busy machine is no failure: how long an example takes says nothing of the law it is an example of.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PRICES = (
    Priced("official", "*", "input", "0.15"),
    Priced("official", "*", "cached_input", "0.075"),
    Priced("official", "*", "output", "0.60"),
    Priced("routed", "*", "input", "0.03"),
    Priced("routed", "*", "output", "0.12"),
)


@dataclass(frozen=True)
class Place:
    """Everything one test of the doors needs."""

    home: Home
    official: Upstream
    routed: Upstream
    sidecar: Sidecar

    @property
    def gateway(self) -> Door:
        """The gateway door: a base URL."""
        return Door(self.sidecar.base_url)

    @property
    def forward(self) -> Door:
        """The forward door: the vendor's own base URL, through the proxy."""
        return Door(self.official.base_url, proxy=self.sidecar.forward, ca=self.home.ca / "mitmproxy-ca-cert.pem")

    def door(self, name: str) -> Door:
        """The door of this name."""
        return self.gateway if name == "gateway" else self.forward


# The files that take longest, begun first: a long one begun last would leave the other workers waiting for it. Any order passes.
LONGEST = [
    f"test_{name}.py"
    for name in """close web books_machine etl_price_rules bench stream_fuzz journey etl_laws etl_batches aborts cli planted_secrets
    etl_increments websocket etl_prices etl_sources etl_signals reconcile""".split()
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order; and what tells a number belongs to the table of `make soak`, whatever it takes."""
    for item in items:
        if "record_property" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trust)
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_report_header() -> str:
    """How many golden cases there are, for whoever runs the tests."""
    found = cases()
    told = Counter(row.table for row in rows())
    shown = ", ".join(f"{count} {table}" for table, count in told.items())
    ways = sum(len(case.doors) for case in found)
    return f"golden: {len(found)} cases, {ways} journeys, {len(sockets())} connections; rows of the wire with a case: {shown}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One table of what was survived and found: the sum of what tests recorded as `trust: …`, and the most of what they did as `trust, most: …`."""
    numbers: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, number in report.user_properties:
            kind, _, what = name.partition(": ")
            if kind == "trust":
                numbers[what] += int(str(number))
            elif kind == "trust, most":
                numbers[what] = max(numbers[what], int(str(number)))
    if numbers:
        terminalreporter.section("trust")
        for name, number in sorted(numbers.items()):
            terminalreporter.write_line(f"{number:>8,}  {name}")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The private root that every test's vendor is certified by."""
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def leaf(authority: Authority) -> Leaf:
    """A certificate for 127.0.0.1 and localhost."""
    return authority.issue()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "home")


@pytest.fixture
async def place(home: Home, authority: Authority, leaf: Leaf) -> AsyncIterator[Place]:
    """`gpt-4o-mini` goes to official first and routed second; everything else to official."""
    async with _opened(home, authority, leaf, "") as opened:
        yield opened


@pytest.fixture
async def asking(home: Home, authority: Authority, leaf: Leaf) -> AsyncIterator[Place]:
    """The same, and the gateway asks for the usage of streams."""
    async with _opened(home, authority, leaf, "inject_usage = true") as opened:
        yield opened


@asynccontextmanager
async def _opened(home: Home, authority: Authority, leaf: Leaf, rules: str) -> AsyncIterator[Place]:
    async with Upstream(name="official", tls=leaf) as official, Upstream(name="routed") as routed:
        write_book(
            home,
            [Way("official", official.base_url, rules=rules), Way("routed", routed.base_url, "routed", "routed_balance", rules)],
            models={"gpt-4o-mini": [("official", "gpt-4o-mini"), ("routed", "cheap/gpt-4o-mini")]},
            prices=PRICES,
        )
        with sidecar(home, "--upstream-ca", str(authority.cert)) as running:
            yield Place(home, official, routed, running)
