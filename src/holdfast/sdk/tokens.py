"""Access tokens: what programs use in place of a password."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from holdfast.sdk.pages import pages
from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/tokens"


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. `hint` is how the secret begins."""

    id: str
    name: str
    purpose: str = ""
    hint: str = ""
    rights: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    user_id: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    used_at: datetime | None = None
    used_from: str = ""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token with its secret, which the server shows this once."""

    token: Token
    secret: str


class TokensResource:
    """The account's tokens."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Token]:
        """All tokens, newest first; also those that have ended."""
        return pages(self._transport, _PATH, Token)

    def create(
        self,
        name: str,
        rights: Iterable[str],
        *,
        kinds: Iterable[str] = (),
        resources: Iterable[str] = (),
        expires_at: datetime | None = None,
    ) -> IssuedToken:
        """Issue a token; it cannot have more rights than whoever issues it."""
        body: dict[str, object] = {"name": name, "rights": list(rights)}
        body |= {"kinds": list(kinds), "resources": list(resources)}
        if expires_at is not None:
            body["expires_at"] = expires_at.isoformat()
        return from_json(IssuedToken, self._transport.post(_PATH, body))

    def revoke(self, token_id: str) -> None:
        """Make a token worthless; it works for five seconds more at most."""
        self._transport.delete(f"{_PATH}/{token_id}")
