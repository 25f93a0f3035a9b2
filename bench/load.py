"""wrk against one address, and what the processes behind it spent meanwhile."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

BODY = (
    '{"model":"gpt-4o-mini","messages":[{"role":"system","content":"You are a helpful assistant."},'
    '{"role":"user","content":"Say something about the cat and the moon."}],"temperature":0.7,"max_tokens":64}'
)
_HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer sk-bench-0123456789abcdef"}
_SCRIPT = """wrk.method = "POST"
wrk.path = {path}
wrk.body = {body}
{headers}
function done(summary, latency, requests)
  local errors = summary.errors
  io.stderr:write(string.format('{{"requests":%d,"microseconds":%d,"p50_us":%d,"p99_us":%d,"failed":%d}}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
LONGEST_S = 30
_TICKS = os.sysconf("SC_CLK_TCK")


class LoadError(Exception):
    """A round in which a request failed: its figure would be worth nothing."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of load came to."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # user and system time of the contender's processes for each request; of a door of ours, with the sealing

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Load:
    """POSTs to a loopback port by so many clients at once; `path` may be absolute, for a forward proxy."""

    port: int
    path: str
    headers: Mapping[str, str]
    clients: int
    seconds: int


def wrk(folder: Path, load: Load, cores: str, pid: int) -> Round:
    """One round of load from these cores, and what the processes under `pid` spent meanwhile. Raises LoadError."""
    script = folder / "wrk.lua"
    named = {**_HEADERS, **load.headers}
    lines = "\n".join(f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in named.items())
    script.write_text(_SCRIPT.format(path=_lua(load.path), body=_lua(BODY), headers=lines))
    command = ["taskset", "-c", cores, "wrk", "-t1", f"-c{load.clients}", f"-d{load.seconds}s", "--timeout", "30s", "-s", str(script)]
    before = cpu_s(pid)
    done = subprocess.run([*command, f"http://127.0.0.1:{load.port}"], capture_output=True, text=True, check=False)
    spent = cpu_s(pid) - before
    found = re.search(r"\{.*\}", done.stderr)
    if done.returncode or found is None:
        raise LoadError(f"wrk ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    told = orjson.loads(found[0])
    if not told["failed"] and not told["requests"] and load.seconds < LONGEST_S:
        return wrk(folder, dataclasses.replace(load, seconds=2 * load.seconds), cores, pid)  # too short for this machine at this hour
    if told["failed"] or not told["requests"]:
        raise LoadError(f"{told['failed']} of {told['requests']} requests to port {load.port} failed: {done.stdout[-500:]}")
    return Round(told["requests"], told["microseconds"] / 1e6, told["p50_us"] / 1e3, told["p99_us"] / 1e3, spent * 1e6 / told["requests"])


def once(load: Load) -> bytes:
    """The body of the answer to one such request. Raises LoadError if it is no success."""
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=60)
    try:
        connection.request("POST", load.path, BODY, {**_HEADERS, **load.headers})
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise LoadError(f"port {load.port} does not answer: {error}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise LoadError(f"port {load.port} answered {answer.status}: {body[:500].decode(errors='replace')}")
    return body


def _lua(text: str) -> str:
    return orjson.dumps(text).decode()  # plain ASCII is written alike in Lua


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for parent in found:
        for thread in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and all that it started, so far."""
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(spent) for spent in fields[11:15])
    return ticks / _TICKS


def resident_kb(pid: int) -> int:
    """Resident kilobytes of one process."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
