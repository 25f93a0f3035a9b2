"""Servers that somebody else wrote, as processes of their own whose words go to a file."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_S = 60


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """A process until the end of the block; the file with its words."""
    with log.open("wb") as words:
        process = subprocess.Popen(command, env=dict(environment), stdout=words, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.terminate()
        process.wait(START_S)


def told(log: Path, pattern: str, times: int = 1) -> list[str]:
    """What a process has said so often, read from its file until it has: such servers tell nobody else when they are ready."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        found = re.findall(pattern, log.read_text(errors="replace"))
        if len(found) >= times:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{log} does not say {pattern!r} {times} times:\n{log.read_text(errors='replace')}")
