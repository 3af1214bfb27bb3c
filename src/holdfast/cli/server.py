"""Which server a command speaks to, and with which token; and the file of a login.

An option wins over a variable, and a variable over the login. The token of the login is
sent to the server that it was made by and to no other. Tokens are never arguments: those
can be read by every user of the machine, and by its history.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import NotSignedIn, UsageError


@dataclass(frozen=True, slots=True)
class Login:
    """A server and a token for it."""

    url: str
    token: str
    token_id: str = ""


def find_server(url: str | None, token_file: str | None, environment: Mapping[str, str]) -> Login:
    """The server and the token that this run is about."""
    stored = read_login(environment)
    address = url or environment.get("HOLDFAST_URL") or (stored.url if stored else "")
    if not address:
        raise NotSignedIn(
            "No server is named: `holdfast login --url URL` once, or set HOLDFAST_URL and "
            "HOLDFAST_TOKEN."
        )
    address = address.rstrip("/")
    if token_file is not None:
        return Login(address, token_in(token_file))
    if token := environment.get("HOLDFAST_TOKEN"):
        return Login(address, token.strip())
    if stored is not None and stored.url == address:
        return stored
    raise NotSignedIn(
        f"There is no token for {address}: `holdfast login --url {address}`, set HOLDFAST_TOKEN, "
        "or give --token-file."
    )


def login_file(environment: Mapping[str, str]) -> str:
    """Where a login is kept."""
    base = environment.get("XDG_CONFIG_HOME") or ""
    if not os.path.isabs(base):
        base = os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "holdfast", "login.json")


def read_login(environment: Mapping[str, str]) -> Login | None:
    path = login_file(environment)
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        return Login(document["url"], document["token"], document.get("token_id", ""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"The login in {path} cannot be read; remove that file, and log in again."
        ) from None


def keep_login(environment: Mapping[str, str], login: Login) -> str:
    """Write the login where only this user can read it; return the path."""
    path = login_file(environment)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    beside = f"{path}.{os.getpid()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"url": login.url, "token": login.token, "token_id": login.token_id}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    return path


def forget_login(environment: Mapping[str, str]) -> bool:
    """Remove the login; whether there was one."""
    try:
        os.unlink(login_file(environment))
    except FileNotFoundError:
        return False
    return True


def token_in(path: str) -> str:
    """The token that a file holds."""
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"The token file {path} cannot be read: {reason}.") from None
    if not token:
        raise UsageError(f"The token file {path} is empty.")
    return token
