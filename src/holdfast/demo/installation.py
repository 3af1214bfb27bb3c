"""The whole of Holdfast: a server, a machine that is protected, its end, and another machine.

Everything runs as it would in earnest, in processes of its own, in a temporary directory
and on a free port. It ends by itself, and fails if anything that comes back differs.
"""

from __future__ import annotations

import shlex
import sys
import time
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from holdfast.cli import text
from holdfast.cli.progress import ProgressScreen, Style
from holdfast.demo import restic, work_tree
from holdfast.demo.narration import Differs, expect, say, step, write
from holdfast.demo.processes import Machine, Server
from holdfast.model.quantity import print_bytes
from holdfast.sdk.client import Client
from holdfast.sdk.schedules import Schedule
from holdfast.sdk.sign_in import sign_in
from holdfast.sdk.snapshots import Snapshot
from holdfast.sdk.sources import Source

_PATH = "/root/project"
_ONLINE_SECONDS = 30.0
_TOKEN_NAME = "demonstration"  # noqa: S105 no secret
_RETENTION = {"keep_daily": 7, "keep_weekly": 4, "max_age_days": 90}


@dataclass
class Installation:
    """All steps, in a directory of its own."""

    directory: Path

    def run(self, *, keep: bool = False) -> None:
        with ExitStack() as stack:
            server = Server(self.directory / "server")
            stack.callback(server.stop)
            with step("A server: API, gateway and clockwork in one process, an agent beside it"):
                server.start()
                issued = sign_in(server.url, server.email, server.password, token_name=_TOKEN_NAME)
                say(f"{server.url}, signed in as {server.email}")
            client = stack.enter_context(Client(server.url, issued.secret))
            self._show(client, server, issued.secret, stack)
            if keep:
                self._stay(server)

    def _show(self, client: Client, server: Server, token: str, stack: ExitStack) -> None:
        first = Machine(self.directory / "machine-1", "gpu-1")
        stack.callback(first.stop)
        with step("A rented machine: it enrols with a token that works once, and work begins"):
            host_id = enrolled(client, server.url, first)
            work_tree.make(first.root / "project")
            before = work_tree.inventory(first.root / "project")
            size = print_bytes(work_tree.disk_usage(first.root / "project"))
            say(f"gpu-1 is online; {_PATH} holds {len(before):,} entries, {size}")

        with step("Protect it: every day, 7 daily and 4 weekly ones, none older than 90 days"):
            source = client.sources.create(host_id, _PATH)
            schedule = client.schedules.create(
                source.id, name="nightly", preset="daily", retention=_RETENTION
            )
            due = "" if schedule.due_at is None else text.moment(schedule.due_at)
            say(f"the next run is due at {due}; the first one is now")
            self._back_up(client, schedule)

        with step("A day of work later: only what is new is stored"):
            work_tree.change(first.root / "project")
            kept = work_tree.inventory(first.root / "project")
            snapshot = self._back_up(client, schedule)

        with step("Disaster: the machine is gone, with its disk, in the middle of the night"):
            first.vanish()
            say(f"{first.directory} does not exist any more; its snapshots do")

        second = Machine(self.directory / "machine-2", "gpu-2")
        stack.callback(second.stop)
        with step("Another machine enrols, and gets everything back"):
            new_id = enrolled(client, server.url, second)
            self._restore(client, snapshot, new_id, second, kept)

        self._look(client, source, schedule, snapshot)
        with step("Plain restic reads the same repository, through the gateway"):
            self._ask_restic(client, token)
        write(_NEXT)

    def _back_up(self, client: Client, schedule: Schedule) -> Snapshot:
        screen = ProgressScreen(sys.stderr, Style.LIVE if sys.stderr.isatty() else Style.NONE)
        started = client.schedules.run(schedule.id)
        done = client.snapshots.wait(started, report=screen, poll_seconds=0.25)
        screen.clear()
        expect(done.status == "COMPLETED", f"the run is {done.status}: {done.error_message}")
        expect(not done.findings, "; ".join(each.message for each in done.findings))
        say(
            f"{text.count(done.files or 0, 'file')}, {print_bytes(done.logical_bytes or 0)}; "
            f"{print_bytes(done.stored_bytes or 0)} stored anew, encrypted, and read back"
        )
        return done

    def _restore(
        self,
        client: Client,
        snapshot: Snapshot,
        host_id: str,
        machine: Machine,
        expected: work_tree.Inventory,
    ) -> None:
        started = client.restores.create(snapshot.id, host_id, target=_PATH)
        done = client.restores.wait(started, poll_seconds=0.25)
        expect(done.status == "COMPLETED", f"the restore is {done.status}: {done.error_message}")
        expect(not done.findings, "; ".join(each.message for each in done.findings))
        work_tree.compare(expected, work_tree.inventory(machine.root / "project"))
        say(
            f"{text.count(done.files or 0, 'file')}, {print_bytes(done.restored_bytes or 0)}: "
            f"all {len(expected):,} entries are the same in content, mode, owner and time"
        )

    def _look(self, client: Client, source: Source, schedule: Schedule, snapshot: Snapshot) -> None:
        with step("History, cost, and a folder of it as a ZIP file"):
            for each in client.snapshots.list(source_id=source.id):
                moment = "" if each.captured_at is None else text.moment(each.captured_at)
                say(
                    f"{each.status:10} {moment}  {print_bytes(each.logical_bytes or 0):>10}  "
                    f"{print_bytes(each.stored_bytes or 0):>10} stored  {each.id}"
                )
            cost = client.billing.estimate_schedule(source.id, preset="daily", retention=_RETENTION)
            if cost.per_month is not None:
                say(f"the schedule will cost {cost.per_month:.6f} {cost.currency} a month")
            archive = self.directory / "folder.zip"
            size = client.data.download_folder(snapshot.id, "email", str(archive))
            with zipfile.ZipFile(archive) as opened:
                expect(opened.testzip() is None, "the ZIP file is damaged")
                count = len(opened.namelist())
            say(f"{archive.name}: {count} entries, {print_bytes(size)}")
            due = client.schedules.next_runs(schedule.id, 2)
            say(f"due next: {', '.join(map(text.moment, due))}")

    def _ask_restic(self, client: Client, token: str) -> None:
        repository = next(client.repositories.list())
        access = client.repositories.access(repository.id)
        parts = urlsplit(access.url.removeprefix("rest:"))
        address = parts._replace(netloc=parts.netloc.replace("TOKEN", token)).geturl()
        say(f"restic -r {shlex.quote(access.url)} snapshots")
        restic.check({"RESTIC_REPOSITORY": f"rest:{address}", "RESTIC_PASSWORD": access.password})

    def _stay(self, server: Server) -> None:
        write(
            f"\nThe server stays at {server.url} until Ctrl-C. In another terminal:\n\n"
            f"    .venv/bin/holdfast login --url {server.url} --email {server.email} \\\n"
            f"        --account-password-file {server.password_file}\n"
            "    .venv/bin/holdfast snapshot list\n"
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            write("\nstopping")


def enrolled(client: Client, url: str, machine: Machine) -> str:
    """Enrol a machine and wait until its agent has been heard; returns the host's id."""
    machine.enrol(url, client.hosts.invite(name=machine.name).secret)
    deadline = time.monotonic() + _ONLINE_SECONDS
    while time.monotonic() < deadline:
        for host in client.hosts.list(search=machine.name):
            if host.status == "online":
                return host.id
        time.sleep(0.1)
    raise Differs(f"the agent of {machine.name} was not heard")


_NEXT = """
Everything came back as it was. In earnest:

    .venv/bin/holdfast up                    a server on this machine; says how to sign in
    .venv/bin/holdfast --help                all commands

docs/tutorial/protect-your-first-machine.md goes on from here; docs/how-to/server.md has the
way to PostgreSQL, S3 and TLS. `./dev demo --engine` shows the engine without a server."""
