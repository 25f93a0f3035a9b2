"""The floor that writes: two doors, one Exchange machine, a durable journal, and the sealer.

A request goes door -> Exchange -> journal (OPEN, synced) -> upstream -> Exchange -> journal (CLOSE) -> seal -> raw/.
Nothing here prices or interprets; etl/ does, from the files, at any later time.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def _without_all_addons() -> None:
    """Let `mitmproxy.addons` be imported without every addon in it: the forward door carries four of them (proxy/forward.py), and the
    others, with Flask, LDAP and passlib, take a third of the time in which a proxy starts and 15 MB of each worker.
    """
    found = importlib.util.find_spec("mitmproxy")
    if found is not None and "mitmproxy.addons" not in sys.modules:
        package = ModuleType("mitmproxy.addons")
        package.__path__ = [f"{place}/addons" for place in found.submodule_search_locations or ()]
        sys.modules[package.__name__] = package


_without_all_addons()
