"""What our rate table says a meter costs, there and then; asked again under another tier, date or class of token."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as Map
from decimal import Decimal

from schemas.dated import ANY
from schemas.meters import BY_NAME
from schemas.rates import Rate, Use, applicable

NOT_PRICED = frozenset(("flat_fee", "rounding", "conversion"))


class Pricer:
    """Unit prices of the charge book, by channel and model; zones are the channels'."""

    def __init__(self, rates: Iterable[Rate], zones: Map[str, str]) -> None:
        self.rates = tuple(rate for rate in rates if rate.book == "charge")
        self.zones = zones
        self._of: dict[tuple[str, str], tuple[Rate, ...]] = {}

    def of(self, channel: str, model: str) -> tuple[Rate, ...]:
        """The rows that can apply to a model on a channel."""
        key = (channel, model)
        if key not in self._of:
            self._of[key] = tuple(rate for rate in self.rates if rate.channel in (ANY, channel) and rate.model in (ANY, model))
        return self._of[key]

    def price(self, channel: str, model: str | None, meter: str, at: int, tier: str | None, input_tokens: int) -> Decimal | None:
        """The price of one unit: the meter's own, else that of the meter it lies inside; None where there is none."""
        name: str | None = meter
        while name is not None:
            use = Use(channel, model or "", name, at, tier, input_tokens, self.zones.get(channel, "UTC"))
            found = applicable(self.of(channel, model or ""), "charge", use)
            if found:
                return found[0].unit_price
            name = BY_NAME[name].inside if name in BY_NAME else None
        return None

    def tiers(self, channel: str, model: str | None) -> tuple[str | None, ...]:
        """The service tiers that the rows name, and the ordinary one."""
        return (None, *sorted({rate.service_tier for rate in self.of(channel, model or "") if rate.service_tier}))

    def versions(self, channel: str, model: str | None) -> tuple[int, ...]:
        """The instants at which a price of this model changed."""
        return tuple(sorted({rate.effective_from for rate in self.of(channel, model or "")}))
