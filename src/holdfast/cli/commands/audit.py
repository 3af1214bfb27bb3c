"""``holdfast audit list``: who changed what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.cli.verbs import Column, Listing, argument, column, shown

if TYPE_CHECKING:
    from holdfast.sdk.audit import AuditEntry


def _change(entry: AuditEntry) -> str:
    before, after = entry.before or {}, entry.after or {}
    parts = []
    for name in sorted({*before, *after}):
        old, new = shown(before.get(name)), shown(after.get(name))
        parts.append(f"{name}: {old} -> {new}" if old else f"{name}: {new}")
    return "; ".join(parts)


VERBS = {
    "list": Listing(
        "entry",
        lambda client, arguments: client.audit.list(
            subject_id=arguments.of, action=arguments.action
        ),
        (
            column("time", "at"),
            column("action"),
            Column("who", lambda entry: f"{entry.actor_kind} {entry.actor_id}"),
            column("from", "address"),
            column("about", "subject_id"),
            Column("change", _change),
        ),
        (
            argument("--of", metavar="ID", default="", help="only what concerns this"),
            argument(
                "--action", metavar="ACTION", default="", help="only this, such as token.issue"
            ),
        ),
        plural="entries",
    )
}
