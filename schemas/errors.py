"""The one base of our errors: facts first, then the edit or command that cures it."""

from __future__ import annotations


class LedgerError(Exception):
    """A refusal that a person can act on.

    `what` says what is wrong and where, `cure` is the edit or command that mends it. Subclasses stand next to
    the code that raises them; only the `tokenledger` command translates them into words on stderr and an exit code.
    """

    exit_code = 1

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what}\n  cure: {cure}" if cure else what)
        self.what = what
        self.cure = cure


class UsageError(LedgerError):
    """Bad usage or bad configuration: exit code 2."""

    exit_code = 2
