"""``holdfast webhook ...``: where events are sent."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.verbs import Column, Doing, Listing, argument, column, given
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

_WEBHOOK = argument("webhook", metavar="WEBHOOK", help="its id")
_KIND = argument(
    "--kind",
    metavar="KIND",
    action="append",
    help="only these, such as snapshot.failed; given again, more (default: all)",
)


def _edit(client: Client, arguments: Namespace) -> Any:
    changes = given(url=arguments.address, kinds=arguments.kind)
    if arguments.active is not None:
        changes["active"] = arguments.active == "yes"
    if not changes:
        raise UsageError("nothing is to be changed; see `holdfast webhook edit --help`")
    return client.webhooks.edit(arguments.webhook, **changes)


VERBS = {
    "list": Listing(
        "webhook",
        lambda client, _arguments: client.webhooks.list(),
        (column("address", "url"), column("kinds"), column("active"), column("id")),
    ),
    "add": Doing(
        "made",
        lambda client, arguments: client.webhooks.create(
            arguments.address, kinds=arguments.kind or ()
        ),
        lambda made, _arguments: (
            "what is sent is signed with this secret, which is not shown again"
            if made.secret
            else "mail will be sent there"
        ),
        (
            argument("address", metavar="ADDRESS", help="https://... or mailto:..."),
            _KIND,
        ),
        shows=(column("secret"), Column("id", lambda made: str(made.webhook.id))),
    ),
    "edit": Doing(
        "webhook",
        _edit,
        lambda webhook, _arguments: f"changed {webhook.url}",
        (
            _WEBHOOK,
            argument("--address", metavar="ADDRESS", help="another address"),
            _KIND,
            argument("--active", choices=("yes", "no"), help="whether anything is sent there"),
        ),
    ),
    "remove": Doing(
        "webhook",
        lambda client, arguments: client.webhooks.remove(arguments.webhook),
        lambda _nothing, _arguments: "nothing more is sent there",
        (_WEBHOOK,),
        asks=lambda arguments: f"remove the webhook {arguments.webhook}?",
    ),
    "test": Doing(
        "event",
        lambda client, arguments: client.webhooks.test(arguments.webhook),
        lambda event, _arguments: f"the test event {event.id} is on its way",
        (_WEBHOOK,),
    ),
    "deliveries": Listing(
        "delivery",
        lambda client, arguments: client.webhooks.deliveries(arguments.webhook),
        (
            column("event", "event_id", right=True),
            column("state"),
            column("attempt", right=True),
            column("answer"),
            column("delivered", "delivered_at"),
        ),
        (_WEBHOOK,),
        plural="deliveries",
    ),
}
