"""Surroundings: what deciding about due schedules needs to know, read for all of them at once.

It decides nothing about slots but whether the account may have one run more. Invariant: a
job that is given out as waiting is locked, so no agent takes it until the transaction ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import and_, select

from holdfast.control import credit, quotas, regions
from holdfast.control.database import Tx
from holdfast.control.run_row import UNFINISHED
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import (
    Account,
    Host,
    Job,
    Repository,
    Schedule,
    Snapshot,
    Source,
)
from holdfast.errors import HoldfastError, QuotaExceeded
from holdfast.model.finding import Finding


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Rows by their ids, and what is in progress."""

    sources: dict[str, Source]
    hosts: dict[str, Host]
    accounts: dict[str, Account]
    repositories: dict[tuple[str, str], Repository]
    """By account and region."""
    unfinished: dict[str, Snapshot]
    """By schedule: the run of an earlier slot that has not ended."""
    waiting: dict[str, Job]
    """By snapshot: the job, locked, where no agent has it."""
    without_credit: dict[str, Finding | None] = field(default_factory=dict)
    """By account: why its credit does not suffice, as far as that was asked."""
    granted: Counter[str] = field(default_factory=Counter)
    """By account: the runs that are about to be made, which its quota does not see yet."""

    @classmethod
    def read(cls, tx: Tx, schedules: Sequence[Schedule]) -> Surroundings:
        rows = tx.execute(
            select(Source, Host, Account, Repository)
            .join(Host, Host.id == Source.host_id)
            .join(Account, Account.id == Source.account_id)
            .outerjoin(
                Repository,
                and_(
                    Repository.account_id == Source.account_id,
                    Repository.region_id == Host.region_id,
                ),
            )
            .where(Source.id.in_({each.source_id for each in schedules}))
        ).all()
        unfinished = _unfinished(tx, schedules)
        return cls(
            sources={source.id: source for source, _, _, _ in rows},
            hosts={host.id: host for _, host, _, _ in rows},
            accounts={account.id: account for _, _, account, _ in rows},
            repositories={
                (repository.account_id, repository.region_id): repository
                for _, _, _, repository in rows
                if repository is not None
            },
            unfinished=unfinished,
            waiting=_waiting(tx, [each.job_id for each in unfinished.values() if each.job_id]),
        )

    def repository(
        self,
        tx: Tx,
        account_id: str,
        region_id: str,
        keys: MasterKeys | None,
        *,
        now: datetime,
    ) -> Repository | None:
        """The repository of the slots; None where there is none and no key to make one."""
        found = self.repositories.get((account_id, region_id))
        if found is None and keys is not None:
            found = regions.repository_for(tx, account_id, region_id, keys=keys, now=now)
            self.repositories[account_id, region_id] = found
        return found

    def refusal(self, tx: Tx, account_id: str) -> Finding | None:
        """Why an account gets no run more; None when it gets this one, which then counts."""
        account = self.accounts[account_id]
        if account_id not in self.without_credit:
            self.without_credit[account_id] = _without_credit(tx, account)
        if finding := self.without_credit[account_id]:
            return finding
        try:
            quotas.check(tx, account, snapshots=self.granted[account_id] + 1)
        except QuotaExceeded as error:
            return Finding("quota_reached", error.message, account_id)
        self.granted[account_id] += 1
        return None


def _without_credit(tx: Tx, account: Account) -> Finding | None:
    try:
        credit.check_may_create(tx, account)
    except HoldfastError as error:
        return Finding("paused_for_credit", error.message, account.id)
    return None


def _unfinished(tx: Tx, schedules: Sequence[Schedule]) -> dict[str, Snapshot]:
    active = tx.scalars(
        select(Snapshot).where(
            Snapshot.schedule_id.in_([each.id for each in schedules]),
            Snapshot.status.in_(UNFINISHED),
            Snapshot.slot_at.is_not(None),
        )
    )
    return {
        each.schedule_id: each
        for each in sorted(active, key=lambda each: each.slot_at or each.created_at)
        if each.schedule_id is not None
    }


def _waiting(tx: Tx, job_ids: Sequence[str]) -> dict[str, Job]:
    if not job_ids:
        return {}
    # A job that somebody has locked is being taken or ended right now, so it is not waiting.
    waiting = tx.scalars(
        select(Job)
        .where(Job.id.in_(job_ids), Job.state == "queued")
        .order_by(Job.id)
        .with_for_update(skip_locked=True, key_share=True)
        .execution_options(populate_existing=True)
    )
    return {each.subject_id: each for each in waiting}
