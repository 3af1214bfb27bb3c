"""Pods: the account's hosts; and what the client asks about the account itself."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from holdfast.compat import route
from holdfast.compat.lium.work import written
from holdfast.control import accounts, hosts, ledger
from holdfast.control.paging import MAX_LIMIT
from holdfast.control.tables import Host
from holdfast.edge.call import Anybody, Asked

router = route.router()

_STATUS: Final = {"online": "RUNNING", "new": "PENDING", "silent": "STOPPED", "revoked": "DELETED"}


@router.get("/version")
def version(visit: Anybody) -> dict[str, Any]:
    """The server's version, and no optional feature."""
    return {"version": visit.deployment.version, "features": []}


@router.get("/users/me")
def user(call: Asked) -> dict[str, Any]:
    """The account that the key belongs to."""
    with call.reading() as tx:
        account = accounts.get(tx, call.who)
        return {
            "id": account.id,
            "email": account.profile.get("email") or "",
            "name": account.name,
            "balance": float(ledger.balance(account)),
        }


@router.get("/pods")
def pods(call: Asked) -> list[dict[str, Any]]:
    """Every host of the account that was not revoked, oldest first, so that numbers stay."""
    with call.reading() as tx:
        rows: list[Host] = []
        cursor = None
        while True:
            page = hosts.hosts(tx, call.who, cursor=cursor, limit=MAX_LIMIT)
            rows += [host for host in page.items if host.revoked_at is None]
            cursor = page.next_cursor
            if cursor is None:
                break
        return [_pod(host, call.now) for host in reversed(rows)]


@router.get("/pods/{pod_id}")
def pod(call: Asked, pod_id: str) -> dict[str, Any]:
    """One host."""
    with call.reading() as tx:
        return _pod(hosts.get(tx, call.who, pod_id), call.now)


def volume_of(host: Host) -> str:
    """The path that the client takes for the pod's volume: the first guarded root."""
    return str(host.roots[0]["path"]) if host.roots else "/root"


def _pod(host: Host, now: datetime) -> dict[str, Any]:
    gpus = [each for each in host.inventory.get("gpus", []) if isinstance(each, dict)]
    names = [str(each.get("name", "GPU")) for each in gpus]
    return {
        "id": host.id,
        "pod_name": host.name,
        "status": _STATUS[hosts.status_of(host, now)],
        "ssh_connect_cmd": None,
        "ports_mapping": {},
        "created_at": written(host.enrolled_at),
        "updated_at": written(host.seen_at or host.enrolled_at),
        "gpu_count": len(names),
        "price": 0.0,
        "executor": {
            "id": host.id,
            "executor_ip_address": "",
            "machine_name": names[0] if names else "CPU",
            "gpu_count": len(names),
            "specs": {"gpu": {"count": len(names), "details": [{"name": each} for each in names]}},
        },
        "template": {"name": "host", "volumes": [volume_of(host)]},
        "local_volume_path": volume_of(host),
    }
