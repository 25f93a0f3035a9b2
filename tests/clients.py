"""Real clients as the tests and the demo use them: openai for Python (sync, async), openai for Node, curl; one question, one reply.

A `Door` says where the traffic goes: straight to a base URL (the gateway door, or the upstream itself), or to a base URL through the
forward door by the environment variables that a team would set. `python -m tests.clients` is the sync SDK in a process of its own: questions as JSON lines in, replies as JSON lines out.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import openai

ROOT = Path(__file__).resolve().parent.parent
_NODE_FOLDER = ROOT / "tests" / "node"
_NODE_ARCH = {"x86_64": "x64", "aarch64": "arm64"}
_PROXY_WORDS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CA_WORDS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


@dataclass(frozen=True, slots=True)
class Door:
    """Where a client sends its calls. `proxy` is the forward door's URL; `ca` the bundle that the client is told to trust."""

    base_url: str
    proxy: str | None = None
    ca: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    """More variables, such as those that `tokenledger env` prints; they come last."""

    def environment(self) -> dict[str, str]:
        """The variables of a client process: this process's own without its proxies and CAs, then the door's."""
        ours = {name: value for name, value in os.environ.items() if name.upper() not in (*_PROXY_WORDS, *_CA_WORDS)}
        if self.proxy:
            # wire.md 5.4: Node reads the proxy variables only with NODE_USE_ENV_PROXY, and from 22 on.
            ours |= {"HTTPS_PROXY": self.proxy, "HTTP_PROXY": self.proxy, "http_proxy": self.proxy, "NODE_USE_ENV_PROXY": "1"}
        if self.ca:
            ours |= {name: str(self.ca) for name in _CA_WORDS if name != "SSL_CERT_DIR"}
        return ours | dict(self.env)


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to one endpoint (`chat`, `completions`, `embeddings` or `models`)."""

    message: str = "Say hello"
    model: str = "gpt-4o-mini"
    endpoint: str = "chat"
    stream: bool = False
    include_usage: bool = False
    api_key: str = "sk-test"
    max_retries: int = 2
    timeout_s: float = 30.0
    leave_after: int = 0
    """In a stream: go away after so many chunks."""
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More body fields."""

    def body(self) -> dict[str, Any]:
        """The JSON body that the call sends."""
        if self.endpoint == "models":
            return {}
        if self.endpoint == "embeddings":
            return {"model": self.model, "input": self.message, **self.extra}
        said = {"messages": [{"role": "user", "content": self.message}]} if self.endpoint == "chat" else {"prompt": self.message}
        streaming = {"stream": True} if self.stream else {}
        options = {"stream_options": {"include_usage": True}} if self.stream and self.include_usage else {}
        return {**said, "model": self.model, **streaming, **options, **self.extra}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the application got: the visible text, the last usage, the head of the last response, or the error it was given."""

    text: str = ""
    chunks: int = 0
    usage: dict[str, Any] | None = None
    model: str | None = None
    id: str | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def request_id(self) -> str | None:
        """The ledger's id for this call, as the gateway door says it."""
        return self.headers.get("x-ledger-request-id")

    def with_part(self, part: Any) -> Reply:
        """This reply with one more chunk, or with the whole object of a call that does not stream (as SDK model or as dictionary)."""
        said = part if isinstance(part, dict) else part.model_dump()
        choice = (said.get("choices") or [{}])[0]
        text = (choice.get("message") or choice.get("delta") or {}).get("content") or choice.get("text") or ""
        return replace(
            self,
            text=self.text + text,
            chunks=self.chunks + 1,
            usage=said.get("usage") or self.usage,
            model=said.get("model") or self.model,
            id=said.get("id") or self.id,
        )


# --- openai for Python ---------------------------------------------------------------------------------------------------------------


async def ask_async(door: Door, ask: Ask) -> Reply:
    """AsyncOpenAI in this loop; proxy and CA are given to its HTTP client."""
    heads: list[httpx2.Response] = []

    async def keep(response: httpx2.Response) -> None:
        heads.append(response)

    http = openai.DefaultAsyncHttpxClient(proxy=door.proxy, verify=_context(door), trust_env=False, event_hooks={"response": [keep]})
    sdk = openai.AsyncOpenAI(
        base_url=door.base_url, api_key=ask.api_key, max_retries=ask.max_retries, timeout=ask.timeout_s, http_client=http
    )
    reply = Reply()
    async with sdk:
        try:
            got = await _method(sdk, ask)(**_arguments(ask))
            if isinstance(got, openai.AsyncStream):
                async with got:
                    async for part in got:
                        reply = reply.with_part(part)
                        if reply.chunks == ask.leave_after:
                            break
            else:
                reply = reply.with_part(got)
        except (openai.OpenAIError, httpx2.HTTPError) as fault:
            reply = replace(reply, error=f"{type(fault).__name__}: {fault}")
    return _with_head(reply, heads)


async def ask_many(door: Door, asks: Sequence[Ask]) -> list[Reply]:
    """All at once, each with a client of its own."""
    return list(await asyncio.gather(*[ask_async(door, ask) for ask in asks]))


def ask_sync(door: Door, ask: Ask) -> Reply:
    """OpenAI in this thread; proxy and CA are given to its HTTP client."""
    http = openai.DefaultHttpxClient(proxy=door.proxy, verify=_context(door), trust_env=False)
    return _ask_with(http, door.base_url, ask)


def ask_python(door: Door, ask: Ask) -> Reply:
    """OpenAI in a process of its own, which finds proxy and CA in its environment as a program in a team does."""
    return _in_process([sys.executable, "-m", "tests.clients"], door, ask)


def _ask_with(http: httpx2.Client, base_url: str, ask: Ask) -> Reply:
    heads: list[httpx2.Response] = []
    http.event_hooks = {"response": [heads.append]}
    reply = Reply()
    with openai.OpenAI(base_url=base_url, api_key=ask.api_key, max_retries=ask.max_retries, timeout=ask.timeout_s, http_client=http) as sdk:
        try:
            got = _method(sdk, ask)(**_arguments(ask))
            if isinstance(got, openai.Stream):
                with got:
                    for part in got:
                        reply = reply.with_part(part)
                        if reply.chunks == ask.leave_after:
                            break
            else:
                reply = reply.with_part(got)
        except (openai.OpenAIError, httpx2.HTTPError) as fault:
            reply = replace(reply, error=f"{type(fault).__name__}: {fault}")
    return _with_head(reply, heads)


def _method(sdk: openai.OpenAI | openai.AsyncOpenAI, ask: Ask) -> Any:
    return {
        "chat": sdk.chat.completions.create,
        "completions": sdk.completions.create,
        "embeddings": sdk.embeddings.create,
        "models": sdk.models.list,
    }[ask.endpoint]


def _arguments(ask: Ask) -> dict[str, Any]:
    """What the SDK's method is called with; fields that its signature may not know go in as extra body."""
    return {**replace(ask, extra={}).body(), "extra_headers": dict(ask.headers), "extra_body": dict(ask.extra) or None}


def _context(door: Door) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(door.ca) if door.ca else None)


def _with_head(reply: Reply, heads: Sequence[httpx2.Response]) -> Reply:
    return replace(reply, status=heads[-1].status_code, headers=dict(heads[-1].headers)) if heads else reply


# --- openai for Node, and curl -------------------------------------------------------------------------------------------------------


def node() -> Path | None:
    """A Node that the openai package supports: the one under tests/node, or None when `npm ci` was not run there."""
    binary = _NODE_FOLDER / "node_modules" / f"node-linux-{_NODE_ARCH.get(platform.machine(), '')}" / "bin" / "node"
    return binary if binary.exists() else None


def curl() -> str | None:
    """The curl program, if the machine has one."""
    return shutil.which("curl")


def ask_node(door: Door, ask: Ask) -> Reply:
    """The openai npm package in a Node process; needs `node()`."""
    binary = node()
    assert binary is not None
    return _in_process([str(binary), str(_NODE_FOLDER / "chat.mjs")], door, ask)


def ask_curl(door: Door, ask: Ask) -> Reply:
    """The curl program with proxy and CA from its environment; the body is read as the SDKs would read it. No retries."""
    paths = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings", "models": "/models"}
    with tempfile.TemporaryDirectory() as folder:
        head, body = Path(folder, "head"), Path(folder, "body")
        command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", str(ask.timeout_s), "--dump-header", str(head)]
        command += ["--output", str(body), "--write-out", "%{http_code}", "--header", f"Authorization: Bearer {ask.api_key}"]
        for name, value in ask.headers.items():
            command += ["--header", f"{name}: {value}"]
        if ask.body():
            command += ["--header", "Content-Type: application/json", "--data-binary", json.dumps(ask.body())]
        command.append(f"{door.base_url}{paths[ask.endpoint]}")
        done = subprocess.run(command, env=door.environment(), capture_output=True, text=True, check=False, timeout=ask.timeout_s + 5)
        reply = Reply(status=int(done.stdout or 0) or None, headers=_last_head(head), error=done.stderr.strip() or None)
        said = body.read_bytes() if body.exists() else b""
    if reply.headers.get("content-type", "").startswith("text/event-stream"):
        # The stand-in vendor's plain streams: LF line ends, one data line an event. The recorder's own parser is not used on purpose.
        for event in said.decode().split("\n\n"):
            if event.startswith("data: {"):
                reply = reply.with_part(json.loads(event[6:]))
    elif said:
        whole = json.loads(said)
        reply = reply.with_part(whole) if "error" not in whole else replace(reply, error=json.dumps(whole["error"]))
    return reply


def _last_head(path: Path) -> dict[str, str]:
    """The headers of the last response in a curl header dump; a CONNECT's own head comes before it."""
    blocks = path.read_text("latin-1").replace("\r", "").strip().split("\n\n") if path.exists() else [""]
    pairs = [line.partition(":") for line in blocks[-1].split("\n")[1:]]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def question(base_url: str, ask: Ask) -> str:
    """One question as the client processes read it: a line of JSON."""
    return json.dumps({**asdict(ask), "base_url": base_url}) + "\n"


def _in_process(command: list[str], door: Door, ask: Ask) -> Reply:
    done = subprocess.run(
        command,
        input=question(door.base_url, ask),
        env=door.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=ask.timeout_s * 3,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return Reply(**json.loads(done.stdout))


def main() -> None:
    """For each line of stdin, one question: ask it with the environment's own proxy and CA, and write the reply as one line."""
    for line in sys.stdin:
        fields = json.loads(line)
        base_url = fields.pop("base_url")
        reply = _ask_with(openai.DefaultHttpxClient(), base_url, Ask(**fields))
        sys.stdout.write(json.dumps(asdict(reply)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
