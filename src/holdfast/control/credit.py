"""Credit: what happens when an account that pays in advance runs out of it.

good -> low (a warning) -> exhausted (nothing new is taken, what is stored stays) -> held
(after a period of grace the snapshots go to the recycle bin). Every step is announced, and
nothing is ever removed before the last announcement is a day old: were the control plane
away for weeks, the announcements come first and the removal later. A snapshot under a hold
stays. When credit is back, what this put into the bin comes back out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Select, case, exists, or_, select

from holdfast.control import amounts, audit, events, retention
from holdfast.control.database import Tx
from holdfast.control.ledger import balance_femto
from holdfast.control.prices import currency_of
from holdfast.control.principal import system
from holdfast.control.tables import Account, Event, Hold, Snapshot
from holdfast.errors import CreditExhausted

GOOD: Final = "good"
LOW: Final = "low"
EXHAUSTED: Final = "exhausted"
HELD: Final = "held"

DEFAULT_GRACE: Final = timedelta(days=14)
ANNOUNCED_AHEAD: Final = (timedelta(days=7), timedelta(days=3), timedelta(days=1))
"""How long before the end of the grace period it is announced again; first at its start."""

LAST_NOTICE: Final = timedelta(days=1)
"""The least time from the last announcement to the removal."""

REASON: Final = "credit ran out, and the period of grace is over"
"""`removed_because` of what was removed for want of credit; nothing else has it."""

_AT_ONCE: Final = 500


def check_may_create(tx: Tx, account: Account) -> None:
    """Raise `CreditExhausted` if nothing new may be begun; by the balance, as it is now."""
    tx.refresh(account, ["prepaid", "balance_micro", "balance_rest_femto"])
    if account.prepaid and balance_femto(account) <= 0:
        raise CreditExhausted(
            "The account has no credit left, so nothing new is taken; what is stored is kept "
            "for now. Top up the credit, or ask the operator to."
        )


def update_states(tx: Tx, *, now: datetime, grace: timedelta = DEFAULT_GRACE) -> int:
    """Bring every account to the state that its balance asks for; returns steps taken.

    A step is a change of state, an announcement, or a number of snapshots removed.
    """
    empty = or_(
        Account.balance_micro < 0,
        (Account.balance_micro == 0) & (Account.balance_rest_femto == 0),
    )
    low = Account.balance_micro < Account.low_credit_micro
    wanted = case((~Account.prepaid, GOOD), (empty, EXHAUSTED), (low, LOW), else_=GOOD)
    found = (
        select(Account)
        .where(or_(Account.credit_state != wanted, Account.credit_state.in_((EXHAUSTED, HELD))))
        .order_by(Account.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return sum(_update(tx, account, now, grace) for account in tx.scalars(found).all())


def _update(tx: Tx, account: Account, now: datetime, grace: timedelta) -> int:
    before, wanted = account.credit_state, _wanted(account)
    if wanted == EXHAUSTED:
        steps = 0
        if before not in (EXHAUSTED, HELD):
            _change(tx, account, EXHAUSTED, now)
            _emit(
                tx,
                account,
                "credit.exhausted",
                "The credit is used up. No new snapshots are taken until there is credit again; "
                "what is stored is kept for now.",
                now,
            )
            steps = 1
        if account.credit_state == EXHAUSTED:
            return steps + _announce_or_hold(tx, account, now, grace)
        return steps + _remove(tx, account, now)
    if wanted == before:
        return 0
    back = _recover(tx, account, now) if before == HELD else 0
    if back is None:
        return 1
    _change(tx, account, wanted, now)
    if before == GOOD:
        _emit(tx, account, "credit.low", f"The credit is down to {_shown(account)}.", now)
        return 1
    more = f" {back} snapshots were taken back out of the recycle bin." if back else ""
    _emit(tx, account, "credit.restored", f"The credit is {_shown(account)}.{more}", now)
    return 1


def _wanted(account: Account) -> str:
    if not account.prepaid:
        return GOOD
    if balance_femto(account) <= 0:
        return EXHAUSTED
    return LOW if account.balance_micro < account.low_credit_micro else GOOD


def _announce_or_hold(tx: Tx, account: Account, now: datetime, grace: timedelta) -> int:
    """Announce what is due to be announced; when all is said and time is up, go on."""
    if tx.scalars(_removable(account).limit(1)).first() is None:
        return 0
    since = account.credit_state_since or now
    end = since + grace
    times = [since, *(end - ahead for ahead in ANNOUNCED_AHEAD if ahead < grace)]
    due = sum(time <= now for time in times)
    last = _last_announcement(tx, account, since)
    said = int(last.data["number"]) if last else 0
    if said < due:
        # After a gap one announcement stands for all that were missed.
        removal = max(end, now + LAST_NOTICE)
        _emit(
            tx,
            account,
            "deletion.ahead",
            f"The account has had no credit since {since:%Y-%m-%d %H:%M} UTC. If none is added, "
            f"its snapshots go to the recycle bin on {removal:%Y-%m-%d %H:%M} UTC, and are "
            f"removed for good {account.recycle_days} days later.",
            now,
            number=due,
            removal_at=removal.isoformat(),
        )
        return 1
    if last is None or said < len(times) or now < max(end, last.at + LAST_NOTICE):
        return 0
    _change(tx, account, HELD, now)
    return 1 + _remove(tx, account, now)


def _last_announcement(tx: Tx, account: Account, since: datetime) -> Event | None:
    found = (
        select(Event)
        .where(Event.account_id == account.id, Event.kind == "deletion.ahead", Event.at >= since)
        .order_by(Event.id.desc())
        .limit(1)
    )
    return tx.scalars(found).first()


def _removable(account: Account) -> Select[Snapshot]:
    # By its own holds, or by those of what it is a copy of.
    held = exists().where(
        Hold.snapshot_id.in_((Snapshot.id, Snapshot.copy_of_id)), Hold.released_at.is_(None)
    )
    return (
        select(Snapshot)
        .where(Snapshot.account_id == account.id, Snapshot.status == "COMPLETED", ~held)
        .order_by(Snapshot.created_at, Snapshot.id)
    )


def _remove(tx: Tx, account: Account, now: datetime) -> int:
    """Put what is left into the recycle bin, some at a time; returns how many."""
    rows = _locked(tx, _removable(account).limit(_AT_ONCE))
    # A hold is placed under the snapshot's lock, so it is looked for again under that.
    free = set(tx.scalars(_removable(account).with_only_columns(Snapshot.id)))
    removed = 0
    for row in rows:
        if row.id not in free:
            continue
        row.status = "DELETED"
        row.kept_because = []
        row.removed_at = now
        row.removed_because = REASON
        row.purge_at = now + timedelta(days=account.recycle_days)
        _note(tx, row, "delete", "COMPLETED", now)
        events.emit(
            tx,
            account.id,
            "snapshot.deleted",
            "snapshot",
            row.id,
            f"Snapshot {row.name or row.id} was put into the recycle bin, because {REASON}. It "
            f"comes back with new credit until {row.purge_at:%Y-%m-%d %H:%M} UTC.",
            now=now,
            data={"source_id": row.source_id, "schedule_id": row.schedule_id, "because": REASON},
        )
        removed += 1
    return removed


def _recoverable(account: Account, now: datetime) -> Select[Snapshot]:
    return select(Snapshot).where(
        Snapshot.account_id == account.id,
        Snapshot.status == "DELETED",
        Snapshot.removed_because == REASON,
        Snapshot.purged_at.is_(None),
        Snapshot.purge_at > now,
    )


def _recover(tx: Tx, account: Account, now: datetime) -> int | None:
    """Take back what was removed for want of credit; None when some must wait for others."""
    found = _recoverable(account, now)
    for schedule_id in tx.scalars(found.with_only_columns(Snapshot.schedule_id).distinct()).all():
        retention.remind(tx, schedule_id, now=now)
    rows = _locked(tx, found)
    for row in rows:
        row.status = "COMPLETED"
        row.removed_at = row.removed_because = row.purge_at = None
        _note(tx, row, "recover", "DELETED", now)
        events.emit(
            tx,
            account.id,
            "snapshot.recovered",
            "snapshot",
            row.id,
            f"Snapshot {row.name or row.id} is back, because there is credit again.",
            now=now,
            data={"source_id": row.source_id, "schedule_id": row.schedule_id},
        )
    tx.flush()
    return None if tx.scalars(found.limit(1)).first() else len(rows)


def _locked(tx: Tx, found: Select[Snapshot]) -> Sequence[Snapshot]:
    # Those who hold a snapshot may want the account, which is locked here: nobody waits.
    locked = found.with_for_update(skip_locked=True, key_share=True)
    return tx.scalars(locked.execution_options(populate_existing=True)).all()


def _note(tx: Tx, row: Snapshot, act: str, before: str, now: datetime) -> None:
    audit.record(
        tx,
        system(row.account_id),
        f"snapshot.{act}",
        "snapshot",
        row.id,
        now=now,
        before={"status": before},
        after={"status": row.status, "because": REASON},
    )


def _change(tx: Tx, account: Account, state: str, now: datetime) -> None:
    audit.record(
        tx,
        system(account.id),
        "account.credit_state",
        "account",
        account.id,
        now=now,
        before={"credit_state": account.credit_state},
        after={"credit_state": state},
    )
    account.credit_state = state
    account.credit_state_since = now


def _emit(
    tx: Tx, account: Account, kind: str, message: str, now: datetime, **data: str | int
) -> None:
    stated: dict[str, str | int] = {
        "state": account.credit_state,
        "balance": amounts.exact(balance_femto(account)),
        "currency": currency_of(account),
    }
    events.emit(tx, account.id, kind, "account", account.id, message, now=now, data=stated | data)


def _shown(account: Account) -> str:
    currency = currency_of(account)
    return f"{amounts.rounded(balance_femto(account), currency)} {currency}"
