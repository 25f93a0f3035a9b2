"""Where things lie in the home folder; the only module that knows its file names."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

# A command of ours in a text for people: its name as a word of its own, with a subcommand behind it.
_COMMAND = re.compile(r"(?<![\w/.-])tokenledger(?= [a-z])")


@dataclass(frozen=True, slots=True)
class Home:
    """The home folder of one team: book/, raw/, spool/, ledger/ and secrets/ under one root."""

    root: Path

    @classmethod
    def find(cls, option: str | None) -> Home:
        """`--home DIR`, else TOKENLEDGER_HOME, else ./data."""
        return cls(Path(option or os.environ.get("TOKENLEDGER_HOME") or "data").absolute())

    @property
    def command(self) -> str:
        """How a person types our command for this home, which is named unless it is the default one."""
        return "tokenledger" if self.root == Path("data").absolute() else f"tokenledger --home {shlex.quote(str(self.root))}"

    def typed(self, text: str) -> str:
        """A text of ours with its commands as they are typed for this home, so that none acts on another when it is pasted."""
        return _COMMAND.sub(lambda _: self.command, text)

    @property
    def book(self) -> Path:
        return self.root / "book"

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def manifest(self) -> Path:
        return self.raw / "manifest.jsonl"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def ledger_file(self) -> Path:
        return self.ledger / "ledger.duckdb"

    @property
    def spend_file(self) -> Path:
        """What each key has spent by month, as the last build knew it; the gateway reads it for monthly limits."""
        return self.ledger / "spend.json"

    @property
    def secrets(self) -> Path:
        """Mode 0700: the fingerprint key, the keys of bodies and the interception CA. Never part of a build, an export or a seal."""
        return self.root / "secrets"

    @property
    def fingerprint_key(self) -> Path:
        return self.secrets / "fingerprint.key"

    @property
    def body_keys(self) -> Path:
        """Mode 0700: the keys of encrypted bodies, a file for each subject."""
        return self.secrets / "bodies"

    @property
    def ca(self) -> Path:
        return self.secrets / "ca"
