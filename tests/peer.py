"""Somebody else's server as an upstream: LiteLLM's proxy with mock answers, as a process of the environment that `make test-peers` makes."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certs import Leaf

ROOT = Path(__file__).resolve().parent.parent
LITELLM = ROOT / ".venv-peers" / "bin" / "litellm"
MODEL = "gpt-4o-mini"
ANSWER = "the peer answers"
START_S = 60

CONFIG = f"""model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_key: none
      mock_response: "{ANSWER}"
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A running peer: its base URL, and the key that its clients must show."""

    base_url: str
    key: str


@contextmanager
def litellm(folder: Path, tls: Leaf) -> Iterator[Peer]:
    """LiteLLM's proxy on a free loopback port over TLS, without network, database or telemetry; its words go to a file in `folder`."""
    config, log, key = folder / "litellm.yaml", folder / "litellm.log", f"sk-{secrets.token_hex(16)}"
    config.write_text(CONFIG)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    arguments += ["--ssl_keyfile_path", str(tls.key), "--ssl_certfile_path", str(tls.cert)]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise it fetches its price list at start
    }
    with log.open("wb") as words:
        process = subprocess.Popen([str(LITELLM), *arguments], cwd=folder, env=environment, stdout=words, stderr=subprocess.STDOUT)
    try:
        _await_start(process, port, log)
        yield Peer(f"https://127.0.0.1:{port}/v1", key)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_start(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until the port accepts; fails with the peer's last words if it ends or takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"LiteLLM did not start (exit {process.poll()}): {log.read_text()[-2000:]}")
