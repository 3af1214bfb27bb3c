"""Qarnot's own published SDK against this server: `qarnot_user.py` is a user's script.

The interpreter with the package ``qarnot`` is named by HOLDFAST_QARNOT_PYTHON; nothing of the
package is changed. Spec lines T1, T3, T4, T5, T7, I2.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.demo.processes import Server
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in

PYTHON = os.environ.get("HOLDFAST_QARNOT_PYTHON", "")
STRANGER, STRANGERS_PASSWORD = "other@example.org", "another long password"
POOR = "poor@example.org"
SCRIPT = Path(__file__).with_name("qarnot_user.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("qarnot"),
    pytest.mark.skipif(
        not os.path.exists(PYTHON),
        reason="HOLDFAST_QARNOT_PYTHON names no interpreter; ./dev test fetches the SDK",
    ),
]


@dataclass
class User:
    """Somebody with a token, and the variables that the script needs."""

    server: Server
    variables: dict[str, str]

    def run(self, part: str, directory: Path) -> None:
        done = subprocess.run(
            [PYTHON, str(SCRIPT), part, str(directory)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={"PATH": os.environ["PATH"], "HOME": str(directory), **self.variables},
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    directory = tmp_path_factory.mktemp("qarnot")
    with ExitStack() as stack:
        server = Server(directory / "server")
        stack.callback(server.stop)
        server.start()
        issued = sign_in(server.url, server.email, server.password, token_name="qarnot")
        client = stack.enter_context(Client(server.url, issued.secret))
        reader = client.tokens.create("reader", rights=["read", "restore"])
        other = client.accounts.create(
            "Others",
            next(client.regions.list()).id,
            owner_email=STRANGER,
            owner_password=STRANGERS_PASSWORD,
        )
        assert other.id
        client.accounts.create(
            "Without credit",
            next(client.regions.list()).id,
            prepaid=True,
            owner_email=POOR,
            owner_password=STRANGERS_PASSWORD,
        )
        poor = sign_in(server.url, POOR, STRANGERS_PASSWORD, token_name="poor")
        foreign = sign_in(server.url, STRANGER, STRANGERS_PASSWORD, token_name="foreign")
        yield User(
            server,
            {
                "QARNOT_CLUSTER_URL": f"{server.url}/qarnot",
                "QARNOT_CLIENT_TOKEN": issued.secret,
                "POOR_TOKEN": poor.secret,
                "FOREIGN_KEY": STRANGER,
                "FOREIGN_TOKEN": foreign.secret,
                "READER_KEY": reader.token.id,
                "READER_TOKEN": reader.secret,
            },
        )


@pytest.mark.parametrize(
    "part", ["connection", "buckets", "task", "many", "snapshots", "signatures"]
)
def test_sdk(user: User, part: str, tmp_path: Path) -> None:
    """T1, T3-T5, T7, I2: the SDK's calls in clients.md, their errors and traps."""
    user.run(part, tmp_path / part)
