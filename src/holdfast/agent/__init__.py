"""The agent: claims jobs for its host, does each in a child process, and reports.

It speaks HTTP to the control plane (`client`) and opens repositories through the gateway
only; it never sees the database. ``docs/design/control-plane.md`` has the protocol.
"""

from __future__ import annotations

from holdfast.agent.enrolment import enrol
from holdfast.agent.service import run
from holdfast.agent.settings import AgentSettings, load, parse_root

__all__ = ["AgentSettings", "enrol", "load", "parse_root", "run"]
