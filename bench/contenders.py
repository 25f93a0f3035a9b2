"""The relays that are compared: each a process of its own on one core, in front of the same upstream.

Peers are looked for where `make bench` installs them; one that is not there is left out, and the table says so.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from schemas.home import Home

ROOT = Path(__file__).resolve().parent.parent
PORTKEY = ROOT / "bench" / "node" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
LITELLM = ROOT / ".venv-peers" / "bin" / "litellm"
MITMDUMP = Path(sys.executable).with_name("mitmdump")
MODEL = "gpt-4o-mini"
START_S = 90.0
STOP_S = 300.0

ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,'
    '"message":{"role":"assistant","content":"The cat sat on the mat, and looked at the moon.","refusal":null},"logprobs":null,'
    '"finish_reason":"stop"}],"usage":{"prompt_tokens":14,"completion_tokens":12,"total_tokens":26,"prompt_tokens_details":'
    '{"cached_tokens":0,"audio_tokens":0}},"service_tier":"default","system_fingerprint":"fp_1"}'
)
_CHUNK = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o-mini-2024-07-18","choices":[%s],"usage":%s}\n\n'
EVENTS = (
    "".join(_CHUNK % ('{"index":0,"delta":{"content":"word "},"finish_reason":null}', "null") for _ in range(12))
    + _CHUNK % ('{"index":0,"delta":{},"finish_reason":"stop"}', "null")
    + _CHUNK % ("", '{"prompt_tokens":14,"completion_tokens":12,"total_tokens":26}')
    + "data: [DONE]\n\n"
)

_NGINX = """worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_rlimit_nofile 16384;
events {{ worker_connections 8000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {servers}
}}
"""
_UPSTREAM = """server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /counted {{ stub_status; }}
    location / {{
      if ($arg_stream) {{ add_header x-request-id req_1; return 200 '{events}'; }}
      default_type application/json; add_header x-request-id req_1; return 200 '{answer}';
    }}
  }}"""
_RELAY = """upstream up {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}"""
_LITELLM = """model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_key: none, api_base: "{upstream}/v1"}}
"""
_CHANNELS = '[[channel]]\nname = "official"\nbase_url = "{upstream}/v1"\nroute = "official"\nbucket = "official_credit"\ndefault = true\n'
_RATES = (
    "channel,model,meter,price,per,currency,effective_from,effective_to,book,service_tier,min_input_tokens,hours,weekdays,source,note\n"
)


class StartError(Exception):
    """A contender that did not come up; its last words."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a contender is started on a port, and with which headers a request is to come to it."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


def room(folder: Path, name: str) -> Path:
    """A new folder in this one, for a contender or a measurement."""
    place = folder / folder_name(name)
    place.mkdir()
    return place


def folder_name(name: str) -> str:
    """How the folder of a contender is called."""
    return name.replace(" ", "-")


def every_core() -> str:
    """All cores that this process may use, as taskset takes them."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))))


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Command, port: int, cores: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process on these cores, from when it accepts on a port until the end of the block. Raises StartError."""
    log = folder / "log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            ["taskset", "-c", cores, *command.words],
            cwd=ROOT,
            stdout=words,
            stderr=subprocess.STDOUT,
            env={**os.environ, **command.environment},
        )
    try:
        deadline = time.monotonic() + START_S
        while not _accepts(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"{command.words[0]} did not start (exit {process.poll()}): {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def upstream(folder: Path, port: int) -> Command:
    """The vendor that stands behind all of them: nginx with two answers of constant bytes; it counts what it was asked under /counted."""
    return _nginx(folder, _UPSTREAM.format(port=port, answer=ANSWER, events=EVENTS))


def nginx_relay(folder: Path, port: int, upstream_port: int) -> Command:
    """Nginx as a relay."""
    return _nginx(folder, _RELAY.format(port=port, upstream=f"127.0.0.1:{upstream_port}"))


def aiohttp_relay(_: Path, port: int, upstream_port: int) -> Command:
    """The bare relay of this folder."""
    return Command([sys.executable, "-m", "bench.aiohttp_relay", str(port), f"http://127.0.0.1:{upstream_port}"])


def gateway(folder: Path, port: int, upstream_port: int, *more: str) -> Command:
    """Our gateway door, everything recorded; `more` are options of `tokenledger proxy`, of which the last counts."""
    return Command([*_proxy(folder, upstream_port), "--no-forward", "--gateway-port", str(port), *more])


def forward(folder: Path, port: int, upstream_port: int) -> Command:
    """Our forward door, everything recorded."""
    return Command([*_proxy(folder, upstream_port), "--no-gateway", "--forward-port", str(port)])


def mitmdump(_: Path, port: int, __: int) -> Command:
    """Mitmdump as it comes, saying nothing of what passes."""
    arguments = ["--quiet", "--listen-host", "127.0.0.1", "--listen-port", str(port), "--set", "block_private=false"]
    return Command([str(MITMDUMP), *arguments])


def portkey(_: Path, port: int, upstream_port: int) -> Command:
    """Portkey's gateway."""
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1"}
    return Command(["node", str(PORTKEY), "--headless", f"--port={port}"], {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}, headers)


def litellm(folder: Path, port: int, upstream_port: int) -> Command:
    """LiteLLM's proxy, without network, database or telemetry."""
    (folder / "litellm.yaml").write_text(_LITELLM.format(model=MODEL, upstream=f"http://127.0.0.1:{upstream_port}"))
    key = f"sk-{secrets.token_hex(16)}"
    arguments = ["--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    # otherwise it fetches its price list at start
    environment = {"HOME": str(folder), "LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return Command([str(LITELLM), *arguments], environment, {"Authorization": f"Bearer {key}"})


def home_of(folder: Path) -> Home:
    """Where a door of ours records that was started in this folder."""
    return Home(folder / "home")


def _proxy(folder: Path, upstream_port: int) -> list[str]:
    home = home_of(folder)
    home.book.mkdir(parents=True)
    (home.book / "book.toml").write_text('currency = "USD"\ntimezone = "UTC"\n')
    (home.book / "channels.toml").write_text(_CHANNELS.format(upstream=f"http://127.0.0.1:{upstream_port}"))
    for name, text in (("models.toml", ""), ("keys.toml", ""), ("rates.csv", _RATES)):
        (home.book / name).write_text(text)
    policies = (ROOT / "data" / "book" / "failed_requests.csv").read_text().splitlines(keepends=True)
    (home.book / "failed_requests.csv").write_text("".join(line for line in policies if line is policies[0] or ",*," in line))
    return [sys.executable, "-m", "tokenledger", "--home", str(home.root), "proxy", "--admin-port", "0"]


def _nginx(folder: Path, servers: str) -> Command:
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, servers=servers))
    return Command(["/usr/sbin/nginx", "-c", str(config), "-p", str(folder)])
