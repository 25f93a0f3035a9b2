"""The rules at the border, the same at both doors: who comes in, how many, and where they may be taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.access import Access
from proxy.admission import RETRY_AFTER_S, Admission
from proxy.permissions import Refusal
from proxy.targets import Targets

CHALLENGE = {"Proxy-Authenticate": 'Basic realm="tokenledger"'}


@dataclass(frozen=True, slots=True)
class Guard:
    """What a door asks before it does anything for a client."""

    access: Access
    admission: Admission
    targets: Targets

    def refusal(self, address: str, headers: Iterable[tuple[str, str]] | None, *, placed: bool) -> Refusal | None:
        """Why a request is not taken, whatever it asks for; None if it is. `headers` is None for a client that has shown the token."""
        why = self.admission.refusal(placed)
        if why is not None:
            return Refusal(503, "overloaded", why)
        return self.access.refusal(address, headers) if headers is not None else None


def headers_of(refusal: Refusal) -> dict[str, str]:
    """What the answer to a refused request says beside its words."""
    return {503: {"Retry-After": str(RETRY_AFTER_S)}, 407: CHALLENGE}.get(refusal.status, {})
