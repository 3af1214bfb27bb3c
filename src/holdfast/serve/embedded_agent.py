"""The agent beside a server: enrolled as a keeper at the first start, kept running after.

It is a child process with its own state directory, and speaks to the server over HTTP like
any other agent. Its settings file is written anew at every start, because the port may be
another one.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import replace
from typing import Final

from holdfast.agent.enrolment import enrol
from holdfast.agent.settings import AgentSettings, parse_root
from holdfast.control import hosts
from holdfast.control.principal import system
from holdfast.serve.child import Child
from holdfast.serve.control_parts import ControlParts
from holdfast.serve.first_start import write_secret
from holdfast.serve.settings import Settings

_AGENT_VARIABLES: Final = "HOLDFAST_AGENT_"


def embedded_agent(parts: ControlParts, url: str) -> Child:
    """The agent, enrolled, ready to be started; the server must answer at `url` already."""
    settings = agent_settings(parts.settings, url)
    os.makedirs(settings.state_directory, mode=0o700, exist_ok=True)
    if not os.path.exists(settings.credential):
        operator = replace(system(parts.first.account_id), operator=True)
        with parts.database.write() as tx:
            _, token = hosts.invite(tx, operator, keeper=True, now=parts.clock())
        enrol(settings, token)
    file = os.path.join(settings.state_directory, "agent.toml")
    write_secret(file, as_toml(settings))
    command = [sys.executable, "-m", "holdfast", "agent", "run", "--settings", file]
    command += ["--parent", str(os.getpid())]
    command += ["--log-format", parts.settings.log_format, "--log-level", parts.settings.log_level]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_AGENT_VARIABLES)
    }
    return Child("agent", command, environment=environment)


def agent_settings(settings: Settings, url: str) -> AgentSettings:
    """What the agent is told: its roots are those of the settings, or the user's home."""
    directory = os.path.join(settings.data_directory, "agent")
    roots = settings.agent_roots or (os.path.expanduser("~"),)
    return AgentSettings(
        server=url,
        name=socket.gethostname(),
        roots=tuple(parse_root(each) for each in roots),
        state_directory=directory,
        cache_directory=os.path.join(settings.data_directory, "agent-cache"),
        task_slots=settings.task_slots,
    )


def as_toml(settings: AgentSettings) -> str:
    """The settings file of that agent."""
    roots = [f"{root.path}={root.directory}" for root in settings.roots]
    members = {
        "server": settings.server,
        "name": settings.name,
        "roots": roots,
        "state_directory": settings.state_directory,
        "cache_directory": settings.cache_directory,
        "task_slots": settings.task_slots,
    }
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in members.items()]
    return "\n".join(lines)
