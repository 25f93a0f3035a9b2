"""The pages' server: one table of pages, the guard in front, and the few handlers that do more than show."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import jinja2
import orjson
from aiohttp import web
from markupsafe import Markup

from etl import run
from etl.charts import Bar, bars
from etl.page import environment_of, pdf
from etl.published import NoLedgerError
from etl.receipt import AmbiguousRequestError, Receipt, UnknownRequestError, UnknownRunError, find, of_run
from etl.receipt_page import receipt_facts, receipt_page, run_facts, run_page
from etl.receipt_text import as_text
from etl.seals import SEAL_FILE, folder, read_seals
from etl.table import cell
from schemas.book import load_book
from schemas.errors import LedgerError
from schemas.home import Home
from web import guard, sqlbox
from web.guard import Guard
from web.page import Link, Page, drawn, receipt_address, run_address
from web.pages import audit, balance, close, prices, requests, routes, wallets
from web.pages.live import Tail
from web.playground import Ask, Gateway
from web.reading import Asked, Reading
from web.schema import EXAMPLES, schema

HERE = Path(__file__).parent
BEAT_S = 0.25  # how often the journals are looked at while somebody watches
PATIENCE_S = 2.0  # how long a receipt may take to be there after its request ended
PageOf = Callable[[Asked], Page]


@dataclass(frozen=True, slots=True)
class Entry:
    """One place in the navigation; `page` is None where a handler of its own shows it."""

    path: str
    label: str
    page: PageOf | None = None


ENTRIES = (
    Entry(balance.PATH, "Balance", balance.page),
    Entry(requests.PATH, "Requests", requests.page),
    Entry(routes.PATH, "Routes", routes.page),
    Entry(wallets.PATH, "Wallets", wallets.page),
    Entry(audit.PATH, "Audit trail", audit.page),
    Entry(prices.PATH, "Prices", prices.page),
    Entry(close.PATH, "Close", close.page),
    Entry("/playground", "Playground"),
    Entry("/live", "Live"),
    Entry("/sql", "SQL"),
)
STATUS: Mapping[type[LedgerError], int] = {NoLedgerError: 503, UnknownRequestError: 404, UnknownRunError: 404, AmbiguousRequestError: 300}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to take something away: how it is written, and as what."""

    write: Callable[..., bytes]
    type: str


RECEIPT_FORMS: Mapping[str, Form] = {
    "txt": Form(lambda found: as_text(found).encode(), "text/plain"),
    "json": Form(lambda found: orjson.dumps(found.as_json(), option=orjson.OPT_INDENT_2), "application/json"),
    "html": Form(lambda found: receipt_page(found).encode(), "text/html"),
    "pdf": Form(lambda found: pdf(receipt_page(found)), "application/pdf"),
}
RUN_FORMS: Mapping[str, Form] = {
    "txt": Form(lambda home, asked, found: run.as_text(asked, found, home.command).encode(), "text/plain"),
    "json": Form(lambda _, asked, found: orjson.dumps(run.as_json(asked, found), option=orjson.OPT_INDENT_2), "application/json"),
    "html": Form(lambda _, asked, found: run_page(asked, found).encode(), "text/html"),
    "pdf": Form(lambda _, asked, found: pdf(run_page(asked, found)), "application/pdf"),
}


def _form(request: web.Request, forms: Mapping[str, Form]) -> str:
    form = request.match_info["form"]
    if form not in forms:
        raise web.HTTPNotFound
    return form


def _files(stem: str, forms: Mapping[str, Form]) -> list[Link]:
    return [Link(form, f"{stem}.{form}") for form in forms]


def _attached(body: bytes, form: str, name: str) -> web.Response:
    """A file to keep; its name holds nothing that a header or a disk would obey."""
    safe = "".join(c for c in name if c.isascii() and (c.isalnum() or c in "-_")) or "receipt"
    return web.Response(
        body=body, content_type=RECEIPT_FORMS[form].type, headers={"Content-Disposition": f'attachment; filename="{safe}.{form}"'}
    )


@dataclass(frozen=True, slots=True)
class Server:
    """What every handler needs."""

    home: Home
    guard: Guard
    reading: Reading
    gateway_url: str
    templates: jinja2.Environment

    def html(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """A template as an answer."""
        text = self.templates.get_template(template).render(entries=ENTRIES, **values)
        return web.Response(status=status, text=text, content_type="text/html")

    def fault(self, error: LedgerError, here: str) -> web.Response:
        """An error as a page: what, and the cure."""
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        return self.html(
            "error.html", status=status, title="This did not work", here=here, what=error.what, cure=self.home.typed(error.cure)
        )


def application(home: Home, rules: Guard, gateway_url: str) -> web.Application:
    """The whole server, ready to run."""
    server = Server(home, rules, Reading(home), gateway_url.rstrip("/"), environment_of(jinja2.FileSystemLoader(HERE / "templates")))
    app = web.Application(middlewares=[guard.middleware(rules)], client_max_size=1 << 20)
    for entry in ENTRIES:
        if entry.page is not None:
            app.router.add_get(entry.path, _shows(server, entry.path, entry.page))
    handlers = Handlers(server)
    app.add_routes(
        [
            web.get("/requests/{id}", handlers.receipt),
            web.get("/requests/{id}/receipt.{form}", handlers.receipt_file),
            web.get("/runs/{id}", handlers.run),
            web.get("/runs/{id}/receipt.{form}", handlers.run_file),
            web.get("/page.css", handlers.style),
            web.get("/downloads/{period}/{name:.+}", handlers.download),
            web.get("/playground", handlers.playground),
            web.post("/playground/send", handlers.send),
            web.post("/playground/research", handlers.research),
            web.get("/live", handlers.live),
            web.get("/live/events", handlers.events),
            web.get("/sql", handlers.sql),
            web.post("/sql", handlers.sql),
            web.get(guard.LOGIN, handlers.login_form),
            web.post(guard.LOGIN, handlers.login),
            web.static("/static", HERE / "static"),
        ]
    )
    app.cleanup_ctx.append(_client(handlers))

    async def close_reading(_: web.Application) -> None:
        server.reading.close()

    app.on_cleanup.append(close_reading)
    return app


def _client(handlers: Handlers) -> Callable[[web.Application], Any]:
    async def opened(_: web.Application) -> Any:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as client:
            handlers.gateway = Gateway(handlers.server.gateway_url, client)
            yield

    return opened


def _shows(server: Server, path: str, page: PageOf) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.StreamResponse:
        query = parse_qs(request.query_string)
        try:
            if path == requests.PATH and query.get("id", [""])[0].strip():
                one = await server.reading.ask(requests.found, query)
                if one is not None:
                    raise web.HTTPSeeOther(receipt_address(one))
            shown = await server.reading.ask(page, query)
        except LedgerError as error:
            return server.fault(error, path)
        return server.html("page.html", here=path, page=shown, title=shown.title)

    return handler


class Handlers:
    """The handlers that do more than show a page of the table."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.gateway: Gateway

    async def receipt(self, request: web.Request) -> web.StreamResponse:
        """The whole story of one request, also of one recorded a second ago."""
        asked = request.match_info["id"]
        try:
            found = await self.server.reading.work(lambda: find(self.server.home, asked))
        except LedgerError as error:
            return self.server.fault(error, requests.PATH)
        files = _files(f"{receipt_address(found.request_id)}/receipt", RECEIPT_FORMS)
        return self.server.html(
            "receipt.html", here=requests.PATH, title=f"Receipt {found.request_id}", files=files, **receipt_facts(found)
        )

    async def receipt_file(self, request: web.Request) -> web.StreamResponse:
        """The receipt to take away; `wait` lets a request that is just ending come to its end."""
        asked, form = request.match_info["id"], _form(request, RECEIPT_FORMS)
        until = asyncio.get_running_loop().time() + (PATIENCE_S if "wait" in request.query else 0)
        try:
            found = await self._ended(asked, until)
            body = await self.server.reading.work(lambda: RECEIPT_FORMS[form].write(found))
        except LedgerError as error:
            return self.server.fault(error, requests.PATH)
        return _attached(body, form, found.request_id)

    async def _ended(self, asked: str, until: float) -> Receipt:
        """The receipt, asked for again while its request is not known or not ended, up to an instant of the loop's clock."""
        while True:
            try:
                found = await self.server.reading.work(lambda: find(self.server.home, asked))
            except UnknownRequestError:
                if asyncio.get_running_loop().time() >= until:
                    raise
            else:
                if found.facts["status"] != "unknown" or asyncio.get_running_loop().time() >= until:
                    return found
            await asyncio.sleep(BEAT_S)

    async def run(self, request: web.Request) -> web.StreamResponse:
        """The receipt of a whole agent run."""
        asked = request.match_info["id"]
        try:
            found = await self.server.reading.work(lambda: of_run(self.server.home, asked))
        except LedgerError as error:
            return self.server.fault(error, requests.PATH)
        files = _files(f"{run_address(asked)}/receipt", RUN_FORMS)
        return self.server.html("run.html", here=requests.PATH, title=f"Run {cell(asked)}", files=files, **run_facts(asked, found))

    async def run_file(self, request: web.Request) -> web.StreamResponse:
        """The run's receipt to take away."""
        asked, form = request.match_info["id"], _form(request, RUN_FORMS)
        try:
            body = await self.server.reading.work(lambda: RUN_FORMS[form].write(self.server.home, asked, of_run(self.server.home, asked)))
        except LedgerError as error:
            return self.server.fault(error, requests.PATH)
        return _attached(body, form, "run")

    async def style(self, request: web.Request) -> web.StreamResponse:
        """The sheet that receipts and statements bring along when they stand alone."""
        return web.Response(text=self.server.templates.get_template("page.css").render(), content_type="text/css")

    async def download(self, request: web.Request) -> web.StreamResponse:
        """A file that a close wrote; only what its seal names has an address."""
        period, name = request.match_info["period"], request.match_info["name"]
        seals = {seal.period: seal for seal in await self.server.reading.work(lambda: read_seals(self.server.home))}
        if period not in seals or (name not in seals[period].outputs and name != SEAL_FILE):
            raise web.HTTPNotFound
        path = folder(self.server.home, period) / name
        return web.FileResponse(path, headers={**guard.HEADERS, "Content-Disposition": f'attachment; filename="{path.name}"'})

    async def playground(self, request: web.Request) -> web.StreamResponse:
        """The form; the models that the book names are there to choose from, and any other may be typed."""
        try:
            models = (await self.server.reading.work(lambda: load_book(self.server.home.book))).models
        except LedgerError:  # the playground asks the gateway, and needs no book of its own
            models = ()
        return self.server.html("playground.html", here="/playground", title="Playground", gateway=self.server.gateway_url, models=models)

    async def send(self, request: web.Request) -> web.StreamResponse:
        """One request through the gateway; its bytes as they come."""
        ask = _ask(await request.post())
        answer = web.StreamResponse(headers={**guard.HEADERS, "Content-Type": "application/octet-stream"})
        started = False
        try:
            async for chunk in self.gateway.stream(ask):
                if not started:
                    await answer.prepare(request)
                    started = True
                await answer.write(chunk)
        except LedgerError as error:
            if not started:
                return web.json_response({"error": error.what, "cure": self.server.home.typed(error.cure)}, status=502)
        await answer.write_eof()
        return answer

    async def research(self, request: web.Request) -> web.StreamResponse:
        """A small run of several calls, then its report."""
        try:
            run, report = await self.gateway.research(_ask(await request.post()))
        except LedgerError as error:
            return web.json_response({"error": error.what, "cure": self.server.home.typed(error.cure)}, status=502)
        return web.json_response({"run_id": run, "report": report})

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The page that follows."""
        return self.server.html("live.html", here="/live", title="Live")

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Requests as they are recorded, as server-sent events, until the browser leaves."""
        answer = web.StreamResponse(headers={**guard.HEADERS, "Content-Type": "text/event-stream"})
        await answer.prepare(request)
        tail = Tail(self.server.home)
        await self.server.reading.work(tail.news)
        await answer.write(b": following\n\n")
        beats = 0
        while request.transport is not None and not request.transport.is_closing():
            for told in await self.server.reading.work(tail.news):
                await answer.write(b"data: " + orjson.dumps(told) + b"\n\n")
                beats = 0
            beats += 1
            if beats % 60 == 0:
                await answer.write(b": still here\n\n")
            await asyncio.sleep(BEAT_S)
        return answer

    async def sql(self, request: web.Request) -> web.StreamResponse:
        """The box; asking is a POST, so that no other site's link can ask."""
        form = await request.post() if request.method == "POST" else {}
        query = str(form.get("query", "")).replace("\r\n", "\n")
        wants_csv = form.get("form") == "csv"
        values: dict[str, Any] = {
            "here": "/sql",
            "title": "Ad hoc SQL",
            "query": query,
            "result": None,
            "fault": None,
            "chart": None,
            "examples": EXAMPLES,
        }
        try:
            values["tables"] = await self.server.reading.ask(schema, {})
            if query.strip():
                values["result"] = await sqlbox.ask(self.server.home, query, rows=sqlbox.MOST_ROWS if wants_csv else sqlbox.ROWS)
        except sqlbox.BoxError as error:
            values["fault"] = error
        except LedgerError as error:
            return self.server.fault(error, "/sql")
        if values["result"] is not None and not wants_csv:
            values["chart"] = await self.server.reading.work(lambda: _chart(values["result"]))
        if wants_csv and values["result"] is not None:
            return web.Response(
                text=_csv(values["result"]), content_type="text/csv", headers={"Content-Disposition": 'attachment; filename="answer.csv"'}
            )
        return self.server.html("sql.html", status=400 if values["fault"] else 200, **values)

    async def login_form(self, request: web.Request) -> web.StreamResponse:
        """Where the token is asked for."""
        return self.server.html("login.html", here="", title="Sign in", wrong=False)

    async def login(self, request: web.Request) -> web.StreamResponse:
        """Take the token, remember the browser."""
        if not await guard.login(request, self.server.guard):
            return self.server.html("login.html", status=403, here="", title="Sign in", wrong=True)
        answer = web.Response(status=303, headers={"Location": "/"})
        guard.sign_in(answer, self.server.guard)
        return answer


def _ask(form: Mapping[str, Any]) -> Ask:
    key, model, prompt = (str(form.get(name, "")).strip() for name in ("key", "model", "prompt"))
    if not model or not prompt or not key.isascii() or not key.isprintable():
        raise web.HTTPBadRequest(text="a model and a prompt are needed; a key is plain ASCII\n")
    return Ask(key, model, prompt)


def _chart(result: sqlbox.Result) -> Markup | None:
    """Bars where the answer has names and numbers: the columns of text that vary name a row, its first number is the length."""
    texts = [n for n, numeric in enumerate(result.numeric) if not numeric and len({row[n] for row in result.rows}) > 1]
    numbers = [n for n, numeric in enumerate(result.numeric) if numeric]
    if not texts or not numbers:
        return None
    rows = [
        Bar(" ".join(row[n] or "NULL" for n in texts), Decimal(value))
        for row in result.rows
        if (value := row[numbers[0]]) is not None and Decimal(value).is_finite()
    ]
    return drawn(bars(rows, result.columns[numbers[0]])) if rows else None


def _csv(result: sqlbox.Result) -> str:
    """RFC 4180; a text that a spreadsheet would take for a formula has an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_inert(name) for name in result.columns])
    for row in result.rows:
        writer.writerow(["" if v is None else v if n else _inert(v) for v, n in zip(row, result.numeric, strict=True)])
    return text.getvalue()


def _inert(value: str) -> str:
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
