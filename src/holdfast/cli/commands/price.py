"""``holdfast price list``: what storing and moving data costs."""

from __future__ import annotations

from holdfast.cli.verbs import Listing, argument, column

VERBS = {
    "list": Listing(
        "price",
        lambda client, arguments: client.prices.list(current=not arguments.all),
        (
            column("what"),
            column("rate", right=True),
            column("currency"),
            column("per", "unit"),
            column("region", "region_id"),
            column("from", "valid_from"),
            column("origin"),
        ),
        (argument("--all", action="store_true", help="also those that are valid no more"),),
    )
}
