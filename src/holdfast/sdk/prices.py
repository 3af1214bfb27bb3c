"""Prices: what storing and moving data costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/prices"


@dataclass(frozen=True, slots=True)
class Price:
    """One rate as it is published, such as 0.023 per GB-month, valid from a time on."""

    id: str
    what: str
    rate: Decimal
    unit: str
    currency: str
    region_id: str = ""
    valid_from: datetime | None = None
    origin: str = ""


class PricesResource:
    """The prices of the installation."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, current: bool = True) -> Iterator[Price]:
        """The prices that are valid now or will be; or all that there ever were."""
        return pages(self._transport, _PATH, Price, {"current": current})

    def set(
        self,
        what: str,
        region_id: str,
        currency: str,
        rate: Decimal,
        *,
        unit: str,
        valid_from: datetime | None = None,
    ) -> Price:
        """Set a price from now, or a time to come, on; operators only."""
        body: dict[str, object] = {
            "what": what,
            "region_id": region_id,
            "currency": currency,
            "rate": format(rate, "f"),
            "unit": unit,
        }
        if valid_from is not None:
            body["valid_from"] = valid_from.isoformat()
        return from_json(Price, self._transport.post(_PATH, body))
