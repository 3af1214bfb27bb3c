"""Webhooks: where an account wants its events told, a web address or an e-mail address.

Nothing is sent from here. The signing secret is shown once and kept sealed. Whether a web
address leads into the server's own network is decided when something is sent to it, because
a name may lead elsewhere by then.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from sqlalchemy import Select, select, update

from holdfast.control import audit, events
from holdfast.control.database import Tx
from holdfast.control.paging import DEFAULT_LIMIT, Page, page
from holdfast.control.principal import Principal, Right
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import Delivery, Event, Webhook
from holdfast.errors import NotFound, NotReady, UsageError

MAX_WEBHOOKS: Final = 50
MAX_URL: Final = 2000
_ID_LENGTH: Final = 36
_MAIL: Final = re.compile(r"mailto:[A-Za-z0-9.!#$%&'*+/=^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")


def create(
    tx: Tx,
    who: Principal,
    *,
    url: str,
    kinds: Collection[str] = (),
    keys: MasterKeys,
    now: datetime,
) -> tuple[Webhook, str]:
    """A new webhook and the secret that its requests are signed with; mail has none ("").

    `kinds` are the events that are wanted, all of them where there are none.
    """
    who.require_everywhere(Right.ADMINISTER)
    current = tx.scalars(_of(who).limit(MAX_WEBHOOKS)).all()
    if len(current) >= MAX_WEBHOOKS:
        raise UsageError(f"An account has at most {MAX_WEBHOOKS} webhooks; remove one first.")
    checked = check_url(url)
    secret = f"whsec_{secrets.token_urlsafe(32)}"
    hook = Webhook(
        account_id=who.account_id,
        url=checked,
        kinds=events.check_kinds(kinds),
        sealed_secret="",
        created_at=now,
    )
    tx.add(hook)
    tx.flush()
    hook.sealed_secret = keys.seal(secret.encode(), context_of(Webhook, hook.id))
    after = audit.state_of(hook, "url", "kinds", "active")
    audit.record(tx, who, "webhook.create", "webhook", hook.id, now=now, after=after)
    return hook, "" if is_mail(checked) else secret


def webhooks(
    tx: Tx, who: Principal, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page[Webhook]:
    """The account's webhooks, newest first."""
    who.require_everywhere(Right.ADMINISTER)
    order = (Webhook.created_at.desc(), Webhook.id.desc())
    return page(tx, _of(who), order=order, cursor=cursor, limit=limit)


def get(tx: Tx, who: Principal, webhook_id: str) -> Webhook:
    """One webhook that is not removed."""
    return _find(tx, who, webhook_id)


def edit(
    tx: Tx,
    who: Principal,
    webhook_id: str,
    *,
    url: str | None = None,
    kinds: Collection[str] | None = None,
    active: bool | None = None,
    now: datetime,
) -> Webhook:
    """Change what is given. What is on its way already goes to the new address."""
    hook = _find(tx, who, webhook_id, lock=True)
    before = audit.state_of(hook, "url", "kinds", "active")
    if url is not None:
        hook.url = check_url(url)
    if kinds is not None:
        hook.kinds = events.check_kinds(kinds)
    if active is not None:
        hook.active = active
    after = audit.state_of(hook, "url", "kinds", "active")
    audit.record(tx, who, "webhook.edit", "webhook", hook.id, now=now, before=before, after=after)
    return hook


def remove(tx: Tx, who: Principal, webhook_id: str, *, now: datetime) -> None:
    """Tell this address nothing more, also not what is on its way."""
    hook = _find(tx, who, webhook_id, lock=True)
    hook.removed_at = now
    hook.active = False
    tx.execute(
        update(Delivery)
        .where(Delivery.webhook_id == hook.id, Delivery.state == "waiting")
        .values(state="failed", answer="the webhook was removed")
        .execution_options(synchronize_session=False)
    )
    before = audit.state_of(hook, "url", "kinds")
    audit.record(tx, who, "webhook.remove", "webhook", hook.id, now=now, before=before)


def test(tx: Tx, who: Principal, webhook_id: str, *, now: datetime) -> Event:
    """Send one event to this webhook only, so that people see whether it arrives."""
    hook = _find(tx, who, webhook_id)
    if not hook.active:
        raise NotReady("This webhook is switched off; switch it on, then test it.")
    event = Event(
        account_id=who.account_id,
        at=now,
        kind=events.TEST,
        subject_kind="webhook",
        subject_id=hook.id,
        message="This is a test. Whoever reads it is told of this account's events.",
        data={},
    )
    audit.record(tx, who, "webhook.test", "webhook", hook.id, now=now)
    return events.post(tx, event, [hook], now=now)


def deliveries(
    tx: Tx,
    who: Principal,
    webhook_id: str,
    *,
    cursor: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> Page[Delivery]:
    """What was and is to be sent to a webhook, newest first, and what it answered."""
    hook = _find(tx, who, webhook_id)
    statement = select(Delivery).where(Delivery.webhook_id == hook.id)
    return page(tx, statement, order=(Delivery.id.desc(),), cursor=cursor, limit=limit)


def is_mail(url: str) -> bool:
    """Whether this is an e-mail address."""
    return url.startswith("mailto:")


def check_url(url: str) -> str:
    """The address unchanged, or `UsageError` that says what is wrong with it."""
    if len(url) > MAX_URL:
        raise UsageError(f"The address has {len(url)} characters; at most {MAX_URL} are possible.")
    if is_mail(url):
        if not _MAIL.fullmatch(url):
            raise UsageError("Write an e-mail address as mailto:name@example.org, one of them.")
        return url
    if not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("The address has characters that must be percent-encoded in a URL.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"The address is no URL: {error}.") from None
    if parts.scheme not in ("https", "http") or not host or not _HOST.fullmatch(host) or port == 0:
        raise UsageError("Write the address as https://host/path, or mailto:name@example.org.")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "The address has a user or password in it, which everybody who sees the webhook "
            "could read; check the signature of what arrives instead."
        )
    if parts.fragment:
        raise UsageError("The address has a fragment (#...), which is never sent; leave it out.")
    return url


def _of(who: Principal) -> Select[Webhook]:
    return select(Webhook).where(Webhook.account_id == who.account_id, Webhook.removed_at.is_(None))


def _find(tx: Tx, who: Principal, webhook_id: str, *, lock: bool = False) -> Webhook:
    who.require_everywhere(Right.ADMINISTER)
    hook = None
    # PostgreSQL refuses text with zero bytes, so what cannot be an id is not asked for.
    if len(webhook_id) <= _ID_LENGTH and webhook_id.isascii() and webhook_id.isprintable():
        hook = tx.get(Webhook, webhook_id, with_for_update=True if lock else None)
    if hook is None or hook.account_id != who.account_id or hook.removed_at is not None:
        raise NotFound(
            "There is no webhook with this id; list the webhooks to see which there are."
        )
    return hook
