"""``holdfast account ...``: one's own account, and for operators all of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.cli.choose import region_id
from holdfast.cli.password import find_password
from holdfast.cli.verbs import (
    Column,
    Doing,
    Listing,
    Showing,
    argument,
    column,
    given,
    shown,
    shown_bytes,
)
from holdfast.errors import UsageError
from holdfast.model.quantity import parse_bytes

if TYPE_CHECKING:
    from holdfast.sdk.accounts import Account, Used
    from holdfast.sdk.client import Client

_PROFILE = ("legal_name", "address", "country", "currency", "contact", "email")
_NONE = "none"


def _limits(account: Account) -> str:
    quotas = account.quotas
    found = {
        "stored": shown_bytes(quotas.stored_bytes) or _NONE,
        "snapshots": shown(quotas.snapshots) or _NONE,
        "running jobs": shown(quotas.running_jobs) or _NONE,
    }
    return ", ".join(f"{name}: {limit}" for name, limit in found.items())


def _profile(account: Account) -> str:
    found = {name: getattr(account.profile, name) for name in _PROFILE}
    return shown({name: value for name, value in found.items() if value})


def _edit(client: Client, arguments: Namespace) -> Any:
    changes = given(
        name=arguments.name, recycle_days=arguments.recycle_days, low_credit=arguments.low_credit
    )
    profile = given(**{name: getattr(arguments, name) for name in _PROFILE})
    if not changes and not profile:
        raise UsageError("nothing is to be changed; see `holdfast account edit --help`")
    account = client.accounts.edit(**changes) if changes else None
    if profile:
        account = client.accounts.edit_profile(
            **{name: value or None for name, value in profile.items()}
        )
    return account


def _create(client: Client, arguments: Namespace) -> Any:
    file = arguments.account_password_file
    return client.accounts.create(
        arguments.name,
        region_id(client, arguments.region),
        prepaid=arguments.prepaid,
        owner_email=arguments.owner,
        owner_password=None if file is None else find_password(file, None, {}, None),
    )


def _limit(text: str) -> int | None:
    return None if text == _NONE else parse_bytes(text)


def _quota(client: Client, arguments: Namespace) -> Any:
    asked = {
        "stored_bytes": arguments.stored,
        "snapshots": arguments.snapshots,
        "running_jobs": arguments.running_jobs,
    }
    quotas: dict[str, object] = {
        name: _limit(text) if name == "stored_bytes" else _count(text)
        for name, text in asked.items()
        if text is not None
    }
    if arguments.prepaid is not None:
        quotas["prepaid"] = arguments.prepaid == "yes"
    if not quotas:
        raise UsageError("no limit is named; see `holdfast account quota --help`")
    return client.accounts.set_quotas(arguments.account, **quotas)


def _count(text: str) -> int | None:
    if text == _NONE:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{text!r} is no limit; give a number, or none")
    return int(text)


def _fields() -> Any:
    for name in _PROFILE:
        yield argument(
            f"--{name.replace('_', '-')}",
            metavar="TEXT",
            help=f"the {name.replace('_', ' ')} on the bill; empty removes it",
        )


def _used(used: Used, show: Callable[[int | None], str] = shown) -> str:
    return f"{show(used.used) or '0'} of {show(used.quota) or 'any number'}"


VERBS = {
    "show": Showing(
        "account",
        lambda client, _arguments: client.accounts.own(),
        (
            column("id"),
            column("name"),
            column("operator", "is_operator"),
            column("balance"),
            column("credit", "credit_state"),
            column("prepaid"),
            Column("limits", _limits),
            column("days to recover", "recycle_days"),
            Column("profile", _profile),
            column("profile lacks", "profile_missing"),
            column("made", "created_at"),
        ),
    ),
    "usage": Showing(
        "usage",
        lambda client, _arguments: client.accounts.usage(),
        (
            Column("stored", lambda usage: _used(usage.stored_bytes, shown_bytes)),
            Column("snapshots", lambda usage: _used(usage.snapshots)),
            Column("running jobs", lambda usage: _used(usage.running_jobs)),
        ),
    ),
    "edit": Doing(
        "account",
        _edit,
        lambda account, _arguments: f"changed {account.name}",
        (
            argument("--name", metavar="NAME", help="what to call the account"),
            argument(
                "--recycle-days",
                metavar="N",
                type=int,
                help="for so many days a deleted snapshot can be recovered",
            ),
            argument(
                "--low-credit", metavar="AMOUNT", help="warn when the balance falls below this"
            ),
            *_fields(),
        ),
    ),
    "list": Listing(
        "account",
        lambda client, _arguments: client.accounts.list(),
        (
            column("name"),
            column("balance", right=True),
            column("credit", "credit_state"),
            Column("limits", _limits),
            column("made", "created_at"),
            column("id"),
        ),
    ),
    "create": Doing(
        "account",
        _create,
        lambda account, _arguments: f"made the account {account.name}; its id is {account.id}",
        (
            argument("name", metavar="NAME", help="what to call it"),
            argument(
                "--region",
                metavar="REGION",
                default="",
                help="where it stores; by default the only one",
            ),
            argument("--owner", metavar="ADDRESS", help="the e-mail address of its first owner"),
            argument(
                "--account-password-file",
                metavar="FILE",
                help="a file with that person's first password",
            ),
            argument(
                "--prepaid", action="store_true", help="running out of credit has consequences"
            ),
        ),
    ),
    "quota": Doing(
        "account",
        _quota,
        lambda account, _arguments: f"{account.name}: {_limits(account)}",
        (
            argument("account", metavar="ACCOUNT", help="its id"),
            argument("--stored", metavar="SIZE", help="how much it may store, or none"),
            argument("--snapshots", metavar="N", help="how many snapshots it may have, or none"),
            argument("--running-jobs", metavar="N", help="how many jobs may run, or none"),
            argument(
                "--prepaid",
                choices=("yes", "no"),
                help="whether running out of credit has consequences",
            ),
        ),
    ),
}
