"""The settings of a server: one flat table, from a TOML file and the environment.

A variable ``HOLDFAST_SERVER_<NAME>`` wins over the file, an argument of the command line
over both. An unknown name is an error that says which known one is nearest, because a
setting that is silently ignored is found out too late. Values are checked here, once;
nothing here opens, makes or connects to anything.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final

from holdfast.errors import UsageError

ENVIRONMENT_PREFIX: Final = "HOLDFAST_SERVER_"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
# Agents report every two seconds, and pause for up to ten when they were not heard.
_SHORTEST_LEASE: Final = 5
_LONGEST_LEASE: Final = 3600
_MOST_TASKS: Final = 1024


def _processors() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting; docs/reference/settings.md says what each one means.

    Paths that are empty lie in `data_directory`, and addresses follow from where the
    server listens.
    """

    data_directory: str = ""
    host: str = "127.0.0.1"
    port: int = 8420
    public_url: str = ""
    gateway_url: str = ""
    database_url: str = ""
    master_key_file: str = ""
    region_name: str = "local"
    region_location: str = ""
    region_options: dict[str, Any] = field(default_factory=dict)
    operator_name: str = "Operator"
    owner_email: str = "admin@localhost"
    embedded_agent: bool = True
    agent_roots: tuple[str, ...] = ()
    task_slots: int = field(default_factory=_processors)
    trusted_proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    gateway_networks: tuple[str, ...] = ("127.0.0.0/8", "::1")
    token_requests_per_second: int = 50
    address_requests_per_second: int = 100
    request_burst: int = 400
    lease_seconds: int = 60
    price_source: str = ""
    smtp_server: str = ""
    smtp_user: str = ""
    smtp_password_file: str = ""
    smtp_tls: str = "starttls"
    mail_from: str = "holdfast@localhost"
    private_webhooks: bool = False
    control_url: str = ""
    gateway_credential_file: str = ""
    log_format: str = "auto"
    log_level: str = "info"

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"The setting port is {self.port}; give 0 to 65535.")
        _one_of("log_format", self.log_format, ("auto", "json", "console"))
        _one_of("log_level", self.log_level, ("debug", "info", "warning", "error"))
        for name in ("public_url", "gateway_url", "control_url"):
            _web_address(name, getattr(self, name))
        for name in (
            "token_requests_per_second",
            "address_requests_per_second",
            "request_burst",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"The setting {name} is {getattr(self, name)}; give 1 or more.")
        if not _SHORTEST_LEASE <= self.lease_seconds <= _LONGEST_LEASE:
            raise UsageError(
                f"The setting lease_seconds is {self.lease_seconds}; give {_SHORTEST_LEASE} to "
                f"{_LONGEST_LEASE}."
            )
        _one_of("smtp_tls", self.smtp_tls, ("none", "starttls", "tls"))
        for name in ("trusted_proxies", "gateway_networks"):
            for each in getattr(self, name):
                _network(name, each)
        if not 0 <= self.task_slots <= _MOST_TASKS:
            raise UsageError(
                f"The setting task_slots is {self.task_slots}; give 0 to {_MOST_TASKS}."
            )
        for root in self.agent_roots:
            if not os.path.isabs(root):
                raise UsageError(
                    f"The setting agent_roots names {root!r}; give paths that begin with /."
                )
        if "@" not in self.owner_email:
            raise UsageError(
                f"The setting owner_email is {self.owner_email!r}; give an e-mail address."
            )

    @property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(_network("trusted_proxies", each) for each in self.trusted_proxies)

    @property
    def own_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(_network("gateway_networks", each) for each in self.gateway_networks)

    @property
    def database(self) -> str:
        """The address of the database: the given one, or SQLite's file."""
        path = os.path.join(self.data_directory, "holdfast.db")
        return self.database_url or f"sqlite:///{path}"

    @property
    def master_key(self) -> str:
        return self.master_key_file or os.path.join(self.data_directory, "master.key")

    @property
    def first_location(self) -> str:
        """Where the first region's objects lie."""
        return self.region_location or os.path.join(self.data_directory, "objects")

    @property
    def gateway_credential(self) -> str:
        """The file of the gateway's credential."""
        return self.gateway_credential_file or os.path.join(
            self.data_directory, "gateway.credential"
        )


NAMES: Final = tuple(each.name for each in fields(Settings))


def load(
    file: str | None, environment: Mapping[str, str], arguments: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of the file (None for none), the environment and the arguments together.

    Relative paths in the file are relative to the directory that it lies in.
    """
    found: dict[str, Any] = {}
    if file is not None:
        found |= _from_file(file)
    found |= _from_environment(environment)
    found |= {name: value for name, value in (arguments or {}).items() if value is not None}
    settings = Settings(**found)
    if not settings.data_directory:
        settings = replace(settings, data_directory=default_data_directory(environment))
    return replace(settings, data_directory=os.path.abspath(settings.data_directory))


def default_data_directory(environment: Mapping[str, str]) -> str:
    """``/var/lib/holdfast`` for root, otherwise below the user's own data directory."""
    if os.geteuid() == 0:
        return "/var/lib/holdfast"
    base = environment.get("XDG_DATA_HOME") or ""
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "holdfast")


def default_of(name: str) -> Any:
    """The value that a setting has when nobody sets it."""
    each = next(each for each in fields(Settings) if each.name == name)
    return each.default if each.default_factory is MISSING else each.default_factory()


_PATHS = frozenset(
    {"data_directory", "master_key_file", "smtp_password_file", "gateway_credential_file"}
)


def _from_file(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            document = tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"The settings file {file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The settings file {file} is not TOML: {error}.") from None
    beside = os.path.dirname(os.path.abspath(file))
    found = {}
    for name, value in document.items():
        if name not in NAMES:
            raise UsageError(
                f"The settings file {file} holds {name!r}, which is no setting."
                f"{_nearest(name)} See docs/reference/settings.md."
            )
        found[name] = _typed(name, value, f"in {file}")
        if name in _PATHS and value:
            found[name] = os.path.join(beside, value)
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or not text:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in NAMES or variable != ENVIRONMENT_PREFIX + name.upper():
            raise UsageError(
                f"The variable {variable} is no setting.{_nearest(name)} "
                "See docs/reference/settings.md."
            )
        found[name] = _typed(name, _from_text(name, text), f"in {variable}")
    return found


def _from_text(name: str, text: str) -> Any:
    default = default_of(name)
    if isinstance(default, bool):
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
    elif isinstance(default, int):
        if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
            return int(text)
    elif isinstance(default, tuple):
        return [each.strip() for each in text.split(",") if each.strip()]
    elif isinstance(default, dict):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _typed(name: str, value: Any, where: str) -> Any:
    default = default_of(name)
    if isinstance(default, tuple):
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise UsageError(f"The setting {name} {where} must be a list of texts.")
    if isinstance(default, dict):
        if isinstance(value, dict) and not any(
            isinstance(each, (dict, list)) for each in value.values()
        ):
            return dict(value)
        raise UsageError(f"The setting {name} {where} must be a table of plain values.")
    if isinstance(default, bool) != isinstance(value, bool) or not isinstance(value, type(default)):
        words = {bool: "true or false", int: "a whole number", str: "a text"}[type(default)]
        raise UsageError(f"The setting {name} {where} is {value!r}; it must be {words}.")
    return value


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"The setting {name} is {value!r}; give one of {', '.join(allowed)}.")


def _network(name: str, text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError:
        raise UsageError(
            f"The setting {name} names {text!r}; give addresses or networks, such as 10.0.0.0/8."
        ) from None


def _web_address(name: str, value: str) -> None:
    if value and not re.match(r"https?://[^/@\s]+", value):
        raise UsageError(f"The setting {name} is {value!r}; give http:// or https:// and a host.")
