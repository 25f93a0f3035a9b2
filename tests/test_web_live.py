"""The pages that do something: a request from the playground to its receipt, a research run, and the page that follows."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Page, async_playwright, expect

from tests.clients import Ask, ask_async
from tests.conftest import Place
from tests.rawdata import one
from tests.sidecar import ROOT, command


@asynccontextmanager
async def page_of(place: Place) -> AsyncIterator[tuple[Page, str]]:
    """`tokenledger web` over the place's home, asked by a browser."""
    arguments = command(place.home, "web", "--port", "0", "--gateway", place.sidecar.gateway)
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip().removeprefix("ready web=")
    chromium = shutil.which("chromium")
    assert chromium, "Debian's chromium is not installed: `make test` installs it as root, or says how"
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = await browser.new_page()
            complaints: list[str] = []
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            yield page, address
            assert complaints == []
            await browser.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def build(place: Place) -> None:
    """`tokenledger ledger`, as a person types it."""
    process = await asyncio.create_subprocess_exec(
        *command(place.home, "ledger", "--no-close"), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd=ROOT
    )
    assert await process.wait() == 0


async def test_a_playground_call_has_its_receipt_at_once_and_the_ledger_says_the_same(place: Place) -> None:
    """The stream is shown, the receipt follows, and what the ledger says after the next build is what the receipt said."""
    async with page_of(place) as (page, address):
        await page.goto(f"{address}/playground")
        await page.get_by_label("API key").fill("sk-of-somebody")
        await page.get_by_label("Model").fill("gpt-4o-mini")
        await page.get_by_label("Prompt").fill("hi [[stub: usage=always]]")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#receipt")).to_contain_text("Arithmetic", timeout=20_000)
        assert await page.locator("#answer").inner_text() != ""
        request_id = await page.locator("#receipt-link a").inner_text()
        told = json.loads(await (await page.request.get(f"{address}/requests/{request_id}/receipt.json")).text())
        await build(place)
        row = one(
            place.home, f"SELECT final_charge, input_tokens, output_tokens, status, tags FROM ledger WHERE request_id = '{request_id}'"
        )
        assert (told["status"], told["final_charge"]) == ("ok", f"{row['final_charge']:f}")
        assert (told["input_tokens"], told["output_tokens"]) == (row["input_tokens"], row["output_tokens"])
        assert json.loads(row["tags"]) == {"playground": "1"}
        assert place.official.seen[-1].header("x-ledger-tag-playground") is None
        await page.goto(f"{address}/?period=all&by=request")
        await expect(page.get_by_role("link", name=request_id)).to_have_count(0)
        await page.goto(f"{address}/?period=all&by=request&playground=1")
        await expect(page.get_by_role("link", name=request_id)).to_have_count(1)


async def test_a_refusal_is_shown_with_its_status(place: Place) -> None:
    """What the upstream refuses is told, and has a receipt too."""
    async with page_of(place) as (page, address):
        await page.goto(f"{address}/playground")
        await page.get_by_label("Model").fill("gpt-5")
        await page.get_by_label("Prompt").fill("hi [[stub: status=401]]")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer")).to_contain_text("HTTP 401", timeout=20_000)
        await expect(page.locator("#receipt-link a")).to_have_count(1)


async def test_a_research_run_has_one_receipt(place: Place) -> None:
    """A plan, an answer each, a report: one run, shown as support and not advice, with one total."""
    async with page_of(place) as (page, address):
        await page.goto(f"{address}/playground")
        await page.get_by_label("Model").fill("gpt-4o-mini")
        await page.get_by_label("Prompt").fill("What is a ledger?")
        await page.get_by_role("button", name="Research run").click()
        await expect(page.locator("#answer")).to_contain_text("Research support, not advice", timeout=20_000)
        await expect(page.locator("#receipt")).to_contain_text(re.compile(r"Run playground-\S+: [3-5] requests"), timeout=20_000)
        assert {seen.path for seen in place.official.seen} == {"/v1/chat/completions"}


async def test_the_live_page_follows(place: Place) -> None:
    """A request made while the page is open stands on it with how it ended."""
    async with page_of(place) as (page, address):
        await page.goto(f"{address}/live")
        await expect(page.locator("#state")).to_have_text("following", timeout=10_000)
        reply = await ask_async(place.gateway, Ask("hi"))
        assert reply.text
        await expect(page.locator("#rows tr")).to_have_count(1, timeout=10_000)
        await expect(page.locator("#rows tr")).to_contain_text("200, complete")
        await expect(page.locator("#rows tr")).to_contain_text("official (first)")


async def test_a_gateway_that_is_away_is_told_with_the_cure(place: Place) -> None:
    """The playground says which address does not answer."""
    place.sidecar.stop()
    async with page_of(place) as (page, address):
        answer = await page.request.post(f"{address}/playground/send", form={"model": "m", "prompt": "p"}, headers={"Origin": address})
        assert answer.status == 502
        assert "make proxy" in (await answer.json())["cure"]
