"""What the product is made of: parts with known holes keep the doors shut, and importing anything reaches for no network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.versions import LEAST, OldPartError, check, installed, warnings
from tests.sidecar import ROOT

# Every module of the product is imported with all name look-ups and connections forbidden.
IMPORT_ALL = """
import importlib.util, pkgutil, sys

def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(heard)
for name in ("schemas", "proxy", "etl", "web"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if module.name != "etl.spark" or importlib.util.find_spec("pyspark"):  # an extra that the set-up does not install
            importlib.import_module(module.name)
import tokenledger
print(sum(name.split(".")[0] in ("schemas", "proxy", "etl", "web") for name in sys.modules))
"""


def test_importing_reaches_for_no_network() -> None:
    """Not one name is looked up and nothing is connected to by importing every module there is."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_what_is_installed_may_stand_behind_a_door() -> None:
    """The lock names the mended release of every part, and each is installed."""
    assert installed().keys() == {least.name for least in LEAST}
    check(installed())


@pytest.mark.parametrize(("name", "version"), [("aiohttp", "3.14.3"), ("h2", "4.1.0"), ("h11", "0.14.0"), ("Brotli", "1.1.0")])
def test_a_part_with_a_known_hole_keeps_the_doors_shut(name: str, version: str) -> None:
    """Which part, which release is the least, why, and the command that cures it."""
    with pytest.raises(OldPartError, match=rf"{name} {version} is installed") as refused:
        check(installed() | {name: version})
    assert "make setup" in str(refused.value)


def test_an_old_interpreter_is_told_and_stops_nothing() -> None:
    """Numbers are compared as numbers: 3.11.9 is older than 3.11.18."""
    assert [*warnings((3, 11, 9))] == ["Python 3.11.9 lacks fixes to ssl; 3.11.18 or later has them"]
    assert [*warnings((3, 11, 18))] == [*warnings((3, 12, 0))] == []
