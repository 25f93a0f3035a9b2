"""The pages, in a real browser over a really built ledger: what they show is what the ledger says, and nothing in it can act."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, expect, sync_playwright
from playwright.sync_api import Request as Asking

from schemas.home import Home
from schemas.records import Record
from tests.billed import recorded
from tests.hostile import HOSTILE, MARK
from tests.rawdata import DAY, NOON, SECOND, attempt, broken, built, call, failure, more_rates, request, response, rows, topup, usage
from tests.sidecar import ROOT, command

PAGES = ("/", "/requests", "/routes", "/wallets", "/audit", "/prices", "/close", "/playground", "/live", "/sql")
SEEN = (*PAGES, "/?period=all&project=search", "/wallets?wallet=w", "/requests/fell", "/runs/run-9")
READING = ("/", "/requests", "/routes", "/wallets", "/audit", "/prices", "/close", "/sql")
AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"
MANY = 130


def records() -> list[Record]:
    """A month: whole calls, a retry, a fallback, a broken stream, a call nobody can price, and each hostile text as model and user."""
    found: list[Record] = [topup("t1", "50"), topup("t2", "20", bucket="routed_balance", reason=HOSTILE[0], reference=HOSTILE[1])]
    for n in range(MANY):
        found += call(f"many-{n:03d}", NOON + n * SECOND, prompt=1000 + n)
    found += [
        request("fell", NOON - SECOND, headers={"x-ledger-run": "run-9"}, match_sha256="f" * 64),
        attempt("fell", 1, NOON - SECOND, channel="routed"),
        failure("fell", 1, NOON, relayed=False),
        attempt("fell", 2, NOON, channel="official", role="backup", reason="fallback"),
        response("fell", 2, NOON + SECOND, usage=usage(10, 20)),
        request("cut", NOON, stream=True, match_sha256="c" * 64),
        attempt("cut"),
        broken("cut", usage=usage(10, 20)),
        *call("dear", NOON + DAY, model="no-price-anywhere"),
    ]
    for n, text in enumerate(HOSTILE):
        headers = {"x-ledger-run": text, "x-ledger-tag-note": text, "x-ledger-project": text, "x-ledger-user": text}
        found += [
            request(
                f"bad-{n:02d}",
                NOON + DAY + n * SECOND,
                headers=headers,
                api_model=text,
                credential=f"fp_{n:032d}",
                match_sha256=f"{n:064d}",
            ),
            attempt(f"bad-{n:02d}", at=NOON + DAY + n * SECOND, sent_model=text),
            failure(f"bad-{n:02d}", at=NOON + DAY + n * SECOND, error=text, served_model=text),
        ]
    return found


@contextmanager
def web(home: Home, *arguments: str, environment: dict[str, str] | None = None) -> Iterator[str]:
    """`tokenledger web` on a free port; its address."""
    process = subprocess.Popen(
        command(home, "web", "--port", "0", *arguments),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split("ready web=")
        assert len(words) == 2, f"the pages did not start (exit {process.poll()})"
        yield words[1].strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("pages"))
    built(home, records())
    return home


@pytest.fixture(scope="module")
def pages(home: Home) -> Iterator[str]:
    with web(home) as address:
        yield address


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "Debian's chromium is not installed: `make test` installs it as root, or says how"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A page with all that it complained of."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._asked)
        self.page.on("request", self._fetched)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _fetched(self, asked: Asking) -> None:
        if "127.0.0.1" not in asked.url:
            self.complaints.append(f"fetched {asked.url}")

    def open(self, address: str) -> Page:
        """Go there; the answer is a success and nothing was complained of."""
        answer = self.page.goto(address)
        assert answer is not None
        assert answer.status == 200, (address, answer.status, self.page.inner_text("body")[:500])
        assert self.complaints == [], address
        return self.page


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    yield Watched(context)
    context.close()


def get(address: str, headers: dict[str, str] | None = None, data: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of one answer, redirects followed by nobody."""
    body = urllib.parse.urlencode(data).encode() if data is not None else None
    asked = urllib.request.Request(address, data=body, headers=headers or {})
    try:
        with urllib.request.build_opener(NoRedirect).open(asked) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """So that a test sees where it was sent."""

    def redirect_request(self, *args: object) -> None:
        return None


@pytest.mark.parametrize("path", SEEN)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_without_complaint_and_without_a_serious_fault_for_who_cannot_see_it(
    pages: str, chromium: Browser, path: str, scheme: str
) -> None:
    """No console error, nothing fetched from elsewhere, and axe-core finds nothing serious, in either colour scheme."""
    context = chromium.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = Watched(context).open(pages + path)
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
    context.close()
    assert [fault for fault in found if fault[0] in ("serious", "critical")] == []


@pytest.mark.parametrize("path", READING)
def test_reading_needs_no_script(pages: str, chromium: Browser, path: str) -> None:
    """With JavaScript off every page for reading shows its tables."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages + path)
    assert page.locator("h2").count() > 0
    context.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_needs_no_sideways_scrolling(pages: str, chromium: Browser, path: str) -> None:
    """At 390 pixels only the tables scroll, each in its own box."""
    context = chromium.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(pages + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_the_way_down_leads_from_the_total_to_a_receipt(pages: str, home: Home, watched: Watched) -> None:
    """Project, key, model, route, run, request by clicking; the charge at the end is the ledger's, to the digit."""
    page = watched.open(f"{pages}/?period=2026-10")
    for name in ("search", "Ada's laptop", "GPT-4o mini", "official", "run-9", "fell"):
        page.locator("main table").last.get_by_role("link", name=name, exact=True).first.click()
    assert page.url.endswith("/requests/fell")
    ((charge,),) = [tuple(row.values()) for row in rows(home, "SELECT final_charge FROM ledger WHERE request_id = 'fell'")]
    assert f"{charge:f}" in page.inner_text("main")
    assert watched.complaints == []


def test_the_totals_are_the_ledgers(pages: str, home: Home, watched: Watched) -> None:
    """Charged by bucket on the first page, read off the hover text, equals the sum over the ledger."""
    page = watched.open(f"{pages}/?period=all")
    table = page.get_by_role("region", name="Charged, by the balance that pays")
    shown = {}
    for line in table.locator("tbody tr").all():
        cells = line.locator("td")
        shown[cells.nth(0).inner_text()] = cells.nth(5).get_attribute("title")
    sums = rows(home, "SELECT balance_bucket AS bucket, sum(final_charge)::DECIMAL(38,12) AS charged, currency FROM ledger GROUP BY ALL")
    assert shown == {
        row["bucket"] or "unknown": f"{row['charged']:f} {row['currency']}"
        if row["charged"] is not None
        else "not known: null in the ledger, never zero"
        for row in sums
    }


def test_what_has_no_price_is_in_plain_sight(pages: str, watched: Watched) -> None:
    """The first page says that a charge is unknown and leads to the request."""
    page = watched.open(f"{pages}/?period=all")
    page.get_by_role("link", name=re.compile("no known charge")).click()
    assert page.get_by_role("link", name="dear", exact=True).count() >= 1


def test_paging_by_key_shows_each_request_once(pages: str, home: Home, watched: Watched) -> None:
    """Following `older requests` to its end meets every request of the month exactly once, newest first."""
    page = watched.open(f"{pages}/requests?period=all")
    seen: list[str] = []
    while True:
        seen += page.locator("tbody tr td:nth-child(2)").all_inner_texts()
        older = page.get_by_role("link", name="older requests")
        if not older.count():
            break
        older.click()
    assert seen == [row["request_id"] for row in rows(home, "SELECT request_id FROM ledger ORDER BY created_at DESC, request_id DESC")]


@pytest.mark.parametrize("asked", ["fell", "up-fell-2", "chatcmpl-fell-2"])
def test_any_id_leads_to_its_receipt(pages: str, watched: Watched, asked: str) -> None:
    """Ours, the vendor's request id, the vendor's response id."""
    page = watched.open(f"{pages}/requests")
    page.get_by_label("any id").fill(asked)
    page.get_by_role("button", name="Show").click()
    assert page.url.endswith("/requests/fell")


def test_a_search_that_cannot_be_understood_is_told(pages: str, watched: Watched) -> None:
    """Wrong amounts and instants are named, and nothing is guessed."""
    page = watched.open(f"{pages}/requests?least=abc&from=yesterday")
    assert page.locator(".notices .bad").all_inner_texts() == [
        "from: write an instant as 2026-11-23T14:00 (UTC)",
        "least: write an amount as 0.05",
    ]


@pytest.mark.parametrize("path", ["/", "/requests", "/routes", "/wallets", "/prices", "/close"])
@pytest.mark.parametrize("month", ["2025-01", "xx"])
def test_a_month_that_the_ledger_does_not_have_is_told(pages: str, path: str, month: str) -> None:
    """The newest is shown in its place, and the page says so; of a month that is there, of all and of none nothing is said."""
    status, text = get(f"{pages}{path}?period={month}")
    assert (status, f"period: the ledger has no month {month}; 2026-10 is shown" in text) == (200, True)
    for known in ("?period=2026-10", "?period=all", ""):
        assert "the ledger has no month" not in get(pages + path + known)[1]


def test_what_is_not_known_reads_so_on_the_balance_and_the_routes(tmp_path: Path, chromium: Browser) -> None:
    """A month in which nobody knows any charge, and of most calls no tokens: never a zero, and no currency behind an unknown."""
    home = Home(tmp_path / "home")
    records = [
        *call("dear", model="no-price-anywhere"),
        *call("torn", NOON + DAY)[:2],
        response("torn", at=NOON + DAY + SECOND, usage=usage(10, 10, total_tokens=21)),
        request("hold", NOON + 2 * DAY),
        attempt("hold", at=NOON + 2 * DAY),
        request("fell", NOON + 3 * DAY),
        attempt("fell", 1, NOON + 3 * DAY, channel="routed"),
        failure("fell", 1, NOON + 3 * DAY + SECOND, relayed=False),
        attempt("fell", 2, NOON + 3 * DAY + SECOND, channel="official", role="backup", reason="fallback"),
        broken("fell", 2, at=NOON + 3 * DAY + 2 * SECOND),
    ]
    built(home, records)
    with web(home) as address, chromium.new_context() as context:
        page = Watched(context).open(f"{address}/?by=model")
        assert page.locator(".tile").first.inner_text().split() == ["charged,", "as", "far", "as", "it", "is", "known", "unknown"]
        assert [line[3:7] for line in cells(page, "By model")] == [
            ["unknown", "unknown", "unknown", "unknown"],
            ["1,000", "500", "unknown", "unknown"],
        ]
        expect(page.locator(".notices li").first).to_contain_text("4 requests have no known charge, 3 of them without a usage")
        page.goto(f"{address}/routes")
        assert [(*line[1:3], *line[8:10], line[-1]) for line in cells(page, "Channels and models")] == [
            ("official", "gpt-4o-mini", "1,000 ms", "1,000 ms", "unknown"),
            ("official", "no-price-anywhere", "1,000 ms", "1,000 ms", "0.000000"),
            ("routed", "openai/gpt-4o-mini", "-", "-", "0.000000"),
        ]
        expect(page.locator("main")).to_contain_text("On 2026-10-13, in tries: official fallbacks 1.")
        expect(page.locator(".notices li")).to_have_text("1 try was answered by another model than the one sent")


def cells(page: Page, caption: str) -> list[list[str]]:
    """The rows of a table of the page."""
    lines = page.get_by_role("region", name=caption).locator("tbody tr").all()
    return [line.locator("td").all_inner_texts() for line in lines]


def test_prices_that_differ_by_their_conditions_alone_can_be_told_apart(tmp_path: Path) -> None:
    """By night and at weekends: each row names its hours and weekdays, is no change of another, and is per million as written."""
    bound = (
        "input 1",
        "input 2 hours=22:00-06:00",
        "output 1",
        "output 2 days=sat,sun",
        "cached_input 1",
        "cached_input 2 region=eu from=2026-02-01T00:00:00Z",
    )
    night = [f"official night {price}{book}" for price in bound for book in ("", " book=list")]
    home = Home(tmp_path)
    built(home, call("r1"), rates=more_rates(*night))
    with web(home) as address:
        status, text = get(f"{address}/prices?model=night")
    assert status == 200
    table = text[text.index("List against contract") : text.index("In force")]
    assert [table.count(word) for word in ("22:00-06:00", "sat,sun", ">eu<", ">1000000<", "1000000.0")] == [1, 1, 1, 6, 0]
    assert "no price has changed yet" in text


@pytest.mark.parametrize("path", ["/prices?at=", "/requests?from=", "/requests?after="])
def test_an_instant_beyond_the_calendar_is_told(pages: str, path: str) -> None:
    """An offset that leads out of the year 1 is no fault of the server's."""
    status, text = get(pages + path + urllib.parse.quote("0001-01-01T00:00:00+23:00"))
    assert (status, "write an instant as" in text) == (200, True)


def test_hostile_texts_are_only_texts(pages: str, watched: Watched) -> None:
    """Fifty texts as model, user, project, run, tag and error: shown, none run, none breaks a page or changes where links lead."""
    for path in (
        *READING,
        *(f"/?period=all&by={name}" for name in ("project", "user", "key", "model", "run", "request")),
        "/requests?period=all",
    ):
        page = watched.open(pages + path)
        assert page.evaluate(f"window.{MARK}") is None, path
        assert page.locator("h1").count() == 1, path
        assert page.locator("main > section, main > figure, main > nav, main > p, main > ul, main > form").count() >= 1
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        assert page.evaluate("[...document.querySelectorAll('main a')].every(a => a.origin === location.origin)"), path
    for n in range(len(HOSTILE)):
        page = watched.open(f"{pages}/requests/bad-{n:02d}")
        assert page.evaluate(f"window.{MARK}") is None, HOSTILE[n]


def test_hostile_texts_in_the_address_are_only_texts(pages: str, watched: Watched) -> None:
    """The same as values of every field of the search."""
    for text in HOSTILE:
        fields = urllib.parse.urlencode(
            dict.fromkeys(("project", "user", "model", "run", "status", "id", "least", "after", "wallet", "at"), text)
        )
        for path in ("/requests", "/wallets", "/prices", "/"):
            page = watched.open(f"{pages}{path}?{fields}")
            assert page.evaluate(f"window.{MARK}") is None, (path, text)


def test_every_balance_proof_adds_up_as_it_stands(pages: str, watched: Watched) -> None:
    """The terms of each row, read off the hover text with the signs of the note below, come to its closing."""
    page = watched.open(f"{pages}/wallets?period=all")
    table = page.get_by_role("region", name="The balance proof")
    heads = table.locator("th").all_inner_texts()
    lines = table.locator("tbody tr").all()
    assert lines
    for line in lines:
        told = dict(zip(heads, [cell.get_attribute("title") for cell in line.locator("td").all()], strict=True))
        terms = {name: Decimal(str(told[name]).split()[0]) for name in heads[3:14]}
        less = terms["charges"] + terms["suspense"] + terms["expiries"]
        assert terms["closing"] == sum(terms.values()) - terms["closing"] - 2 * less, terms


def test_a_wallet_shows_its_balance_over_time_and_its_entries_with_their_reasons(pages: str, watched: Watched) -> None:
    """From the balances by clicking: a chart of that bucket alone, and the statement with the top-up."""
    page = watched.open(f"{pages}/wallets")
    page.get_by_role("region", name="Balances").get_by_role("link", name="official_credit").first.click()
    expect(page.get_by_role("figure", name=re.compile("Balance by bucket"))).to_have_count(1)
    page.get_by_label("kind").select_option("topup")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("region", name=re.compile("Statement of")).locator("tbody tr")).to_have_count(1)


def test_routes_are_told_from_day_to_day(pages: str, home: Home, watched: Watched) -> None:
    """Each day's tries by channel are those of the attempts, and the charts over time stand above them."""
    page = watched.open(f"{pages}/routes?period=all")
    assert page.locator("figure svg").count() >= 3
    lines = page.get_by_role("region", name="Day by day (UTC)").locator("tbody tr").all()
    shown = {tuple(line.locator("td").nth(n).inner_text() for n in range(4)) for line in lines}
    told = rows(
        home,
        "SELECT started_at::DATE::VARCHAR AS day, channel, count(*) AS tries, count(*) FILTER (WHERE status = 'ok') AS ok FROM attempts GROUP BY ALL",
    )
    assert shown == {(row["day"], row["channel"], f"{row['tries']:,}", f"{row['ok']:,}") for row in told}


def test_what_blocks_the_close_is_told_with_its_cure(home: Home, pages: str, watched: Watched) -> None:
    """As `tokenledger ledger` refuses it: what, and the command."""
    page = watched.open(f"{pages}/close?period=2026-10")
    blocking = page.get_by_role("region", name="What still blocks the close")
    expect(blocking).to_contain_text("1 request without a price for")
    expect(blocking).to_contain_text(f"tokenledger --home {home.root} rates check")


def test_a_bill_stands_beside_the_books_with_the_steps_between(tmp_path: Path, chromium: Browser) -> None:
    """The close page draws the gap of a golden bill, and its steps add up to the gap on the page."""
    home = Home(tmp_path)
    recorded(home)
    bill = ROOT / "tests" / "golden_bills" / "new-api" / "logs.json"
    told = subprocess.run(
        command(home, "reconcile", str(bill), "--vendor", "Router", "--period", "2026-10"),
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert told.returncode in (0, 1), told.stderr
    with web(home) as address:
        context = chromium.new_context()
        page = Watched(context).open(f"{address}/close?period=2026-10")
        expect(page.get_by_role("figure", name=re.compile("From the books to the bill"))).to_have_count(1)
        line = page.get_by_role("region", name="Bills beside the books").locator("tbody tr").filter(has_text="Router")
        gap = str(line.first.locator("td").nth(6).get_attribute("title")).split()[0]
        steps = page.get_by_role("region", name="The steps from the books to the bill").locator("tbody tr td:nth-child(4)")
        assert sum(Decimal(str(step.get_attribute("title")).split()[0]) for step in steps.all()) == Decimal(gap)
        context.close()


# ---- the SQL box ----

ESCAPES = (
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_json('/etc/hostname')",
    "SELECT * FROM read_json_auto('/etc/hostname')",
    "SELECT * FROM read_ndjson('/etc/hostname')",
    "SELECT * FROM read_parquet('/tmp/*.parquet')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM parquet_schema('/tmp/x.parquet')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '/tmp/x.csv'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM glob('/etc/**')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "FROM read_text('../book/keys.toml')",
    "COPY ledger TO '/tmp/escaped.csv'",
    "COPY (SELECT 1) TO '/tmp/escaped.parquet' (FORMAT parquet)",
    "COPY ledger FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/escaped'",
    "IMPORT DATABASE '/tmp/escaped'",
    "ATTACH '/tmp/escaped.db' AS escaped",
    "ATTACH ':memory:' AS escaped",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/x.duckdb_extension'",
    "SELECT * FROM read_csv('https://127.0.0.1:1/x.csv')",
    "SELECT * FROM 'https://127.0.0.1:1/x.parquet'",
    "SELECT * FROM read_text('s3://bucket/x')",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "SET GLOBAL threads = 64",
    "RESET lock_configuration",
    "PRAGMA temp_directory='/tmp/escaped'",
    "PRAGMA enable_profiling",
    "SET profiling_output = '/tmp/escaped.json'",
    "DROP TABLE ledger",
    "UPDATE ledger SET final_charge = 0",
    "DELETE FROM ledger",
    "INSERT INTO wallet_balances VALUES ('w', 'b', 'USD', 1)",
    "CREATE TABLE escaped (a INTEGER)",
    "CREATE OR REPLACE VIEW ledger AS SELECT 1",
    "SELECT 1; DROP TABLE ledger",
    "FROM query('COPY ledger TO ''/tmp/escaped.csv''')",
    "SELECT getenv('HOME')",
)


def asked(pages: str, query: str, form: str = "table") -> tuple[int, str]:
    return get(f"{pages}/sql", {"Origin": pages}, {"query": query, "form": form})


@pytest.mark.parametrize("query", ESCAPES)
def test_the_box_reaches_nothing_but_the_ledger(pages: str, query: str, record_property: Callable[[str, object], None]) -> None:
    """Files, network, settings and changes are refused with DuckDB's words."""
    before = set(Path("/tmp").glob("escaped*"))
    status, text = asked(pages, query)
    assert status == 400, text
    assert "Error" in text
    assert set(Path("/tmp").glob("escaped*")) == before
    record_property("trust: SQL-box escapes refused", 1)


def test_the_box_ends_what_takes_too_much(pages: str) -> None:
    """Memory is limited; the page says so and the server goes on."""
    status, text = asked(pages, "SELECT list(a.range) FROM range(100000000) a")
    assert (status, "Memory" in text or "more than" in text) == (400, True)
    assert asked(pages, "SELECT 42 AS answer")[0] == 200


def test_the_box_refuses_an_answer_that_no_page_can_hold(pages: str) -> None:
    """Few rows may be long too: the server never holds more than the limit."""
    status, text = asked(pages, "SELECT repeat('x', 100000) FROM range(1000)")
    assert (status, "longer than" in text) == (400, True)


def test_the_box_answers_as_table_chart_and_csv(pages: str, watched: Watched) -> None:
    """An example query gives a table with exact amounts and a chart; the CSV keeps numbers and defuses formulas."""
    page = watched.open(f"{pages}/sql")
    page.get_by_role("button", name="Balances").click()
    expect(page.locator("figure svg")).to_have_count(1)
    assert page.locator("table tbody tr").count() >= 2
    status, text = asked(pages, "SELECT '=1+1' AS text, -1.50::DECIMAL(9,2) AS amount, NULL AS nothing", "csv")
    assert (status, text) == (200, "text,amount,nothing\r\n'=1+1,-1.50,\r\n")


# ---- who may look ----


def test_another_host_name_is_refused(pages: str) -> None:
    """DNS rebinding: a page elsewhere whose name leads here reads nothing."""
    assert get(pages, {"Host": "evil.test"})[0] == 403
    assert get(pages, {"Host": f"evil.test:{urllib.parse.urlsplit(pages).port}"})[0] == 403
    assert get(pages, {"Host": "127.0.0.1:80@evil.test"})[0] == 403
    assert get(pages, {"Host": "LOCALHOST:1"})[0] == 200


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.test"}, {"Origin": "null"}])
def test_what_does_something_must_come_from_a_page_of_ours(pages: str, headers: dict[str, str]) -> None:
    """A form or script of another site cannot ask the box or the playground."""
    assert get(f"{pages}/sql", headers, {"query": "SELECT 1"})[0] == 403
    assert get(f"{pages}/playground/send", headers, {"model": "m", "prompt": "p"})[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.test"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({}, 200),
    ],
)
def test_only_a_link_may_lead_here_from_elsewhere(pages: str, headers: dict[str, str], status: int) -> None:
    """Scripts, pictures and frames of another site cannot even ask; the same holds for the stream of the live page."""
    assert get(f"{pages}/close", headers)[0] == status
    if status == 403:
        assert get(f"{pages}/live/events", headers)[0] == 403


def test_every_answer_forbids_scripts_from_elsewhere(pages: str) -> None:
    """The policy stands on pages, errors and files alike."""
    for path in ("/", "/nowhere", "/static/style.css", "/requests/nobody"):
        try:
            with urllib.request.urlopen(pages + path) as answer:
                headers = answer.headers
        except urllib.error.HTTPError as error:
            headers = error.headers
        assert "script-src 'self'" in headers["Content-Security-Policy"], path
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_beyond_loopback_a_token_is_asked_for(home: Home, chromium: Browser) -> None:
    """Without one the server does not start; with one a browser signs in, and a wrong one stays out."""
    refused = subprocess.run(
        command(home, "web", "--port", "0", "--host", "0.0.0.0"), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert "TOKENLEDGER_WEB_TOKEN" in refused.stderr
    with web(home, "--host", "0.0.0.0", "--name", "127.0.0.1", environment={"TOKENLEDGER_WEB_TOKEN": "a" * 32}) as address:
        local = address.replace("0.0.0.0", "127.0.0.1")
        assert get(local)[0] == 303
        assert get(local, {"Authorization": f"Bearer {'b' * 32}"})[0] == 303
        assert get(local, {"Authorization": f"Bearer {'a' * 32}"})[0] == 200
        context = chromium.new_context()
        page = context.new_page()
        page.goto(local)
        page.get_by_label("Token").fill("b" * 32)
        page.get_by_role("button").click()
        assert "not the token" in page.inner_text("main")
        page.get_by_label("Token").fill("a" * 32)
        page.get_by_role("button").click()
        assert page.inner_text("h1") == "Where did the balance go?"
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        context.close()


def test_without_a_ledger_the_page_says_how_to_make_one(tmp_path: Path, chromium: Browser) -> None:
    """503, the reason and the command."""
    with web(Home(tmp_path)) as address:
        status, text = get(address)
    assert status == 503
    assert re.search(r"tokenledger --home \S+ ledger", text)


def test_a_receipt_can_be_taken_away(pages: str, home: Home) -> None:
    """The JSON is the command's."""
    status, text = get(f"{pages}/requests/fell/receipt.json")
    told = subprocess.run(command(home, "receipt", "fell", "--json"), capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert status == 200
    assert json.loads(text) == json.loads(told)
    assert Decimal(json.loads(text)["final_charge"]) > 0
