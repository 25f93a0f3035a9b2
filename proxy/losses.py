"""How many records were lost and not told yet, in a file that has its room from the start: a full disk takes the count, and a restart finds it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_DIGITS = 20


class LossNote:
    """The count beside a journal. A loss that was told and still stands here is told again after a crash: twice is better than never."""

    def __init__(self, folder: Path) -> None:
        """Take up what the last process left. Raises OSError where there is no room even for this."""
        descriptor = os.open(folder / "losses", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115 - held as long as its journal
        text = self._file.read(_DIGITS)
        self.count = int(text) if text.isdigit() else 0
        if len(text) < _DIGITS:
            os.pwrite(descriptor, self._text(), 0)
            os.fsync(descriptor)

    def add(self, records: int) -> None:
        """So many more are lost, or, below zero, have been told. Where even this cannot be written, the process alone knows."""
        if records:
            self.count += records
            with contextlib.suppress(OSError):
                os.pwrite(self._file.fileno(), self._text(), 0)

    def _text(self) -> bytes:
        return b"%0*d" % (_DIGITS, self.count)
