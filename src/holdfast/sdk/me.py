"""Who one is to the server: signing in, and what the credential in use may do."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.sdk.record import from_json
from holdfast.sdk.transport import Transport

_PATH = "/api/v1/me"


@dataclass(frozen=True, slots=True)
class Me:
    """Who asks. `kinds` and `resources` narrow a token where they are not empty."""

    kind: str
    id: str
    account_id: str
    user_id: str | None = None
    operator: bool = False
    rights: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()


class MyselfResource:
    """The caller."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> Me:
        return from_json(Me, self._transport.get(_PATH))

    def change_password(self, old_password: str, new_password: str) -> None:
        """Change one's own password; all other sessions end."""
        body = {"old_password": old_password, "new_password": new_password}
        self._transport.put(f"{_PATH}/password", body)
