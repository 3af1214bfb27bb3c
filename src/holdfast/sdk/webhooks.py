"""Webhooks: where events are sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.sdk.events import Event
from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/webhooks"


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that events are sent to; `kinds` is empty for all of them."""

    id: str
    url: str
    kinds: tuple[str, ...] = ()
    active: bool = True
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MadeWebhook:
    """A webhook, and the secret that its requests are signed with, shown this once."""

    webhook: Webhook
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to a webhook. `answer` is what came back last."""

    id: int
    event_id: int
    state: str
    attempt: int = 0
    not_before: datetime | None = None
    answer: str = ""
    delivered_at: datetime | None = None


class WebhooksResource:
    """The account's webhooks."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Webhook]:
        """All webhooks, newest first."""
        return pages(self._transport, _PATH, Webhook)

    def get(self, webhook_id: str) -> Webhook:
        return from_json(Webhook, self._transport.get(f"{_PATH}/{webhook_id}"))

    def create(self, url: str, *, kinds: Iterable[str] = ()) -> MadeWebhook:
        """Send events to ``https://...`` or ``mailto:...``."""
        body = {"url": url, "kinds": list(kinds)}
        return from_json(MadeWebhook, self._transport.post(_PATH, body))

    def edit(self, webhook_id: str, **changes: object) -> Webhook:
        """Change `url`, `kinds` or `active`."""
        return from_json(Webhook, self._transport.patch(f"{_PATH}/{webhook_id}", changes))

    def remove(self, webhook_id: str) -> None:
        self._transport.delete(f"{_PATH}/{webhook_id}")

    def test(self, webhook_id: str) -> Event:
        """Send a test event there."""
        return from_json(Event, self._transport.post(f"{_PATH}/{webhook_id}/test"))

    def deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """What was and is to be sent there, newest first."""
        return pages(self._transport, f"{_PATH}/{webhook_id}/deliveries", Delivery)
