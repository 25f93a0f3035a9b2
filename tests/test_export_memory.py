"""Every export of a month that is longer than one piece keeps to its bound of memory, and is whole."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from bench.months import make_month
from etl.export.month import FORMATS
from etl.export.source import PIECE_ROWS
from schemas.home import Home
from tests.sidecar import ROOT, command

MOST_KIB = 500 * 1024


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A month of a full piece and a part of one, built by a process of its own: what a parent held counts as its children's too."""
    month = make_month(tmp_path_factory.mktemp("long"), PIECE_ROWS + PIECE_ROWS // 4)
    subprocess.run(command(month.home, "ledger", "--no-close"), cwd=ROOT, check=True, capture_output=True)
    return month.home


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_an_export_stays_under_500_mb(form: str, home: Home, tmp_path: Path) -> None:
    """Measured as the most that the command's own process ever held."""
    path = tmp_path / form
    process = subprocess.Popen(command(home, "export", form, "--period", "2026-09", "--out", str(path)), cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert used.ru_maxrss < MOST_KIB
    assert json.loads(path.with_name(f"{form}.manifest.json").read_text())["rows"] > PIECE_ROWS
