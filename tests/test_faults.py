"""The promises under fire: kill -9 anywhere, calls that fail once and for good, and what cannot grow. `make soak` does all of it, and the books too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sidecar import ROOT

SLICE = {"kills": 100, "recording": 8}
WHOLE = {"kills": 1000, "recording": 10_000, "books": 10_000}

Tell = Callable[[str, object], None]


def campaign(rounds: str, folder: Path, count: int, tell: Tell) -> None:
    """Run the rounds and tell their numbers; fails with the first promise that was broken."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.campaign", rounds, str(folder), str(count)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for what, number in json.loads(done.stdout).items():
        tell(f"trust: {what}", number)


@pytest.mark.parametrize("rounds", SLICE)
def test_promises_are_kept_through_faults(rounds: str, tmp_path: Path, record_property: Tell) -> None:
    """Nothing acknowledged is lost or doubled, no failed fsync is tried again, the ledger is old or new."""
    campaign(rounds, tmp_path, SLICE[rounds], record_property)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("rounds", WHOLE)
def test_promises_are_kept_through_every_fault(rounds: str, tmp_path: Path, record_property: Tell) -> None:
    """The same at every call, with every error, and a thousand kills."""
    campaign(rounds, tmp_path, WHOLE[rounds], record_property)
