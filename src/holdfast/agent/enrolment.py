"""Enrolment: a one-time token for a credential of this host's own.

The credential is written before anything else is done with it. Because a token works only
once, it is found out first whether the file can be written at all.
"""

from __future__ import annotations

import os

from holdfast.agent.client import ControlClient
from holdfast.agent.credential import Credential, write_credential
from holdfast.agent.inventory import Inventory
from holdfast.agent.service import ca_certificate
from holdfast.agent.settings import DEFAULT_ROOTS, AgentSettings
from holdfast.errors import NameTaken, UsageError


def enrol(settings: AgentSettings, token: str, *, replace: bool = False) -> Credential:
    """Enrol this host at `settings.server`; return its credential, which is on disk by then.

    `NameTaken` where there is a credential already, unless `replace`.
    """
    if not settings.server:
        raise UsageError("Say which server to enrol at, such as https://holdfast.example.org.")
    path = settings.credential
    if os.path.exists(path) and not replace:
        raise NameTaken(
            f"This host is enrolled already: {path} exists. Ask for it to be replaced if that "
            "enrolment is no longer wanted."
        )
    _check_writable(path)
    roots = settings.roots or DEFAULT_ROOTS
    client = ControlClient(settings.server, None, ca_certificate(settings))
    try:
        host_id, secret = client.enrol(
            token,
            name=settings.shown_name,
            roots=[{"path": root.path, "directory": root.directory} for root in roots],
            inventory=Inventory(roots).document(0),
        )
    finally:
        client.close()
    credential = Credential(host_id, secret, settings.server, settings.shown_name, roots)
    write_credential(path, credential)
    return credential


def _check_writable(path: str) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        probe = f"{path}.new"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise UsageError(
            f"The credential cannot be written to {path}: {error.strerror}. Nothing was enrolled; "
            "run this as the agent's user, or set credential_file."
        ) from None
