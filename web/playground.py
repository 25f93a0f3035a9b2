"""The playground: a request through the gateway with a chosen key and model, and a small research run of several.

Everything it sends carries the tag `playground`, so that totals can leave it out. The key goes from the browser through
here to the gateway and is kept nowhere.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from schemas.errors import LedgerError

TAG = {"x-ledger-tag-playground": "1"}
PLAN = (
    "Name three short questions whose answers together would answer the question of the user. One a line, no numbers, nothing else.",
    "Answer in at most five sentences of plain text. Say what you are not sure of.",
    "Write a short report in plain text for the question of the user from the notes that follow it. Say what remains open.",
)
NOTES = 3


class GatewayError(LedgerError):
    """The gateway could not be asked."""

    def __init__(self, base_url: str, why: str) -> None:
        super().__init__(f"the gateway at {base_url} does not answer: {why}", "make proxy, or name it with --gateway")


@dataclass(frozen=True, slots=True)
class Ask:
    """What a person typed."""

    key: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway door."""

    base_url: str
    client: aiohttp.ClientSession

    def _headers(self, ask: Ask, run: str | None) -> dict[str, str]:
        headers = {**TAG, "Content-Type": "application/json"}
        if ask.key:
            headers["Authorization"] = f"Bearer {ask.key}"
        return headers | ({"x-ledger-run": run} if run else {})

    async def stream(self, ask: Ask) -> AsyncIterator[bytes]:
        """The gateway's answer as it comes, after one line of our own: its request id and status."""
        body = {"model": ask.model, "messages": [{"role": "user", "content": ask.prompt}], "stream": True}
        try:
            async with self.client.post(
                f"{self.base_url}/v1/chat/completions", data=orjson.dumps(body), headers=self._headers(ask, None)
            ) as answer:
                yield orjson.dumps({"request_id": answer.headers.get("x-ledger-request-id"), "status": answer.status}) + b"\n"
                async for chunk in answer.content.iter_any():
                    yield chunk
        except aiohttp.ClientError as error:
            raise GatewayError(self.base_url, str(error)) from None

    async def complete(self, ask: Ask, system: str, prompt: str, run: str) -> str:
        """One whole answer's text; raises GatewayError with the vendor's words where it is an error."""
        body = {"model": ask.model, "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}]}
        try:
            async with self.client.post(
                f"{self.base_url}/v1/chat/completions", data=orjson.dumps(body), headers=self._headers(ask, run)
            ) as answer:
                told = orjson.loads(await answer.read())
        except (aiohttp.ClientError, orjson.JSONDecodeError) as error:
            raise GatewayError(self.base_url, str(error)) from None
        return _text(told, answer.status)

    async def research(self, ask: Ask) -> tuple[str, str]:
        """A run: a plan, an answer to each of its questions, a report. Returns the run's id and the report."""
        run = f"playground-{uuid.uuid4()}"
        plan = await self.complete(ask, PLAN[0], ask.prompt, run)
        questions = [line.strip() for line in plan.splitlines() if line.strip()][:NOTES] or [ask.prompt]
        notes = [f"{question}\n{await self.complete(ask, PLAN[1], question, run)}" for question in questions]
        return run, await self.complete(ask, PLAN[2], "\n\n".join([ask.prompt, *notes]), run)


def _text(told: Mapping[str, Any], status: int) -> str:
    choices = told.get("choices") if isinstance(told, dict) else None
    if status == 200 and isinstance(choices, list) and choices and isinstance(choices[0], dict):
        content = (choices[0].get("message") or {}).get("content")
        return content if isinstance(content, str) else ""
    error = told.get("error") if isinstance(told, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    raise LedgerError(f"the gateway answered {status}: {message or 'no message'}", "check the key and the model")
