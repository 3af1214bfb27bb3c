"""Webhooks: where an account wants its events told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import Response
from pydantic import Field

from holdfast.api.document import Body, Changes, Document, Listing
from holdfast.api.events import Event, EventKind
from holdfast.api.fields import Boolean, PathId
from holdfast.api.operation import PREFIX, router
from holdfast.control import webhooks as service
from holdfast.control.database import Tx
from holdfast.control.tables import Webhook as Row
from holdfast.edge.answers import change, document, listing, remove
from holdfast.edge.call import Asked
from holdfast.edge.etags import IfMatch
from holdfast.edge.idempotency import KeyHeader, once
from holdfast.edge.pages import DEFAULT_LIMIT, Cursor, Limit

routes = router("webhooks")

Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        pattern=r"^(https?://|mailto:)[!-~]+$",
        description="https://host/path, or mailto:name@example.org.",
    ),
]
Kinds = Annotated[list[EventKind], Field(max_length=50, description="Empty: all of them.")]
OBSERVED: Final = ("created_at",)


class Webhook(Document):
    """An address that events are sent to."""

    id: str
    url: str
    kinds: list[str]
    active: bool
    created_at: datetime


class Webhooks(Listing[Webhook]):
    """A page of webhooks."""


class NewWebhook(Body):
    """Where to send events, and which."""

    url: Url
    kinds: Kinds = Field(default_factory=list)


class WebhookEdit(Changes):
    """What can be changed of a webhook."""

    url: Url = ""
    kinds: Kinds = Field(default_factory=list)
    active: Boolean = True


class MadeWebhook(Document):
    """A webhook and the secret that its requests are signed with, which is shown this once."""

    webhook: Webhook
    secret: str


class Delivery(Document):
    """One event on its way to a webhook. `answer` is what came back last."""

    id: int
    event_id: int
    state: str
    attempt: int
    not_before: datetime
    answer: str
    delivered_at: datetime | None


class Deliveries(Listing[Delivery]):
    """A page of deliveries."""


@routes.get("/webhooks", response_model=Webhooks)
def list_webhooks(call: Asked, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Response:
    """List webhooks, newest first."""
    with call.reading() as tx:
        found = service.webhooks(tx, call.who, cursor=cursor, limit=limit)
    return listing(call.request, found, Webhook.model_validate)


@routes.post("/webhooks", response_model=MadeWebhook, status_code=201)
def create_webhook(call: Asked, body: NewWebhook, key: KeyHeader = None) -> Response:
    """Send events to an address, signed with a secret that is in this answer only."""

    def act(tx: Tx) -> tuple[Row, str]:
        return service.create(
            tx, call.who, url=body.url, kinds=body.kinds, keys=call.keys, now=call.now
        )

    return once(
        call,
        key,
        body,
        act,
        lambda made: MadeWebhook(webhook=Webhook.model_validate(made[0]), secret=made[1]),
        status=201,
        location=lambda made: f"{PREFIX}/webhooks/{made[0].id}",
        secret=True,
    )


@routes.get("/webhooks/{webhook_id}", response_model=Webhook)
def get_webhook(call: Asked, webhook_id: PathId) -> Response:
    """Show a webhook."""
    with call.reading() as tx:
        row = service.get(tx, call.who, webhook_id)
    return document(call.request, Webhook.model_validate(row))


@routes.patch("/webhooks/{webhook_id}", response_model=Webhook)
def edit_webhook(
    call: Asked, webhook_id: PathId, body: WebhookEdit, if_match: IfMatch = None
) -> Response:
    """Change a webhook; what is on its way goes to the new address."""
    return change(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, webhook_id),
        act=lambda tx: service.edit(tx, call.who, webhook_id, now=call.now, **body.given()),
        show=Webhook.model_validate,
    )


@routes.delete("/webhooks/{webhook_id}", status_code=204)
def remove_webhook(call: Asked, webhook_id: PathId, if_match: IfMatch = None) -> Response:
    """Remove a webhook; nothing more is sent to it."""
    return remove(
        call,
        if_match,
        read=lambda tx: service.get(tx, call.who, webhook_id),
        act=lambda tx: service.remove(tx, call.who, webhook_id, now=call.now),
        show=Webhook.model_validate,
    )


@routes.post("/webhooks/{webhook_id}/test", response_model=Event, status_code=202)
def send_test_event(call: Asked, webhook_id: PathId, key: KeyHeader = None) -> Response:
    """Send a test event to this webhook only."""
    return once(
        call,
        key,
        None,
        lambda tx: service.test(tx, call.who, webhook_id, now=call.now),
        Event.model_validate,
        status=202,
    )


@routes.get("/webhooks/{webhook_id}/deliveries", response_model=Deliveries)
def list_deliveries(
    call: Asked, webhook_id: PathId, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT
) -> Response:
    """List what was and is to be sent to a webhook, newest first."""
    with call.reading() as tx:
        found = service.deliveries(tx, call.who, webhook_id, cursor=cursor, limit=limit)
    return listing(call.request, found, Delivery.model_validate)
