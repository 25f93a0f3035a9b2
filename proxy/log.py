"""What the proxy's processes say on standard error: one JSON object a line, for machines; never a body, a header or a credential.

An exception's own words may quote what it choked on, so only its type is told, and the places it came through.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from schemas.instants import write_instant
from schemas.scrub import scrub

_QUOTED = re.compile(r"b?(['\"]).*\1", re.DOTALL)


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        words = record.getMessage()
        line: dict[str, Any] = {"at": write_instant(int(record.created * 1e6)), "level": record.levelname.lower(), "from": record.name}
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["through"] = " ".join(f"{Path(place.filename).name}:{place.lineno}" for place in traceback.extract_tb(trace)[-8:])
            words = re.split(r"[:\n]", words, maxsplit=1)[0]  # what follows is the exception's
        line["message"] = scrub(words if record.name.startswith("proxy") else _QUOTED.sub("…", words))
        return orjson.dumps(line).decode()


def to_stderr() -> None:
    """Let this process log so, warnings and worse, its libraries too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLine())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = _ended


def _ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("proxy").critical("the process ended by an exception", exc_info=(kind, error, trace))
