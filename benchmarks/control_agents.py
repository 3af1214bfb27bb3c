"""Many agents in one process: each waits for work, says that it lives, and ends what it gets.

It is a program because its reader, `control_pick_up.py`, must not be what it waits for; it
prints one JSON object a line and lives until it is killed. What an agent gets it ends as
failed after a few seconds; no data is touched.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any

import httpx

BEGIN_WITHIN_SECONDS = 30
_HEARTBEAT_SECONDS = 20
_WAIT_SECONDS = 30
_PATIENCE_SECONDS = 120.0
_DONE, _NO_WORK = 200, 204
_FAILURE = {"code": "source_unreadable", "message": "This is a benchmark.", "retryable": False}


def tell(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class Agent:
    """One host's agent. Two connections, as the real one has."""

    def __init__(self, url: str, known: Mapping[str, str]) -> None:
        self._instance = str(uuid.uuid4())
        headers = {"Authorization": f"Bearer {known['credential']}"}
        self._working, self._living = (
            # No TLS here, so the certificates, 10 ms for each client, are not read.
            httpx.AsyncClient(
                base_url=f"{url}/api/v1/agent",
                headers=headers,
                timeout=_PATIENCE_SECONDS,
                verify=False,
                trust_env=False,
            )
            for _ in range(2)
        )

    async def live(self) -> None:
        """Say so every 20 seconds, from a random moment on."""
        await asyncio.sleep(random.uniform(0, _HEARTBEAT_SECONDS))
        body = {"instance": self._instance, "version": "0", "running": []}
        while True:
            started = time.monotonic()
            answer = await self._living.post("/heartbeat", json=body)
            tell(heartbeat=time.monotonic() - started)
            if answer.status_code != _DONE:
                tell(trouble=f"heartbeat: {answer.status_code} {answer.text[:300]}")
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def work(self) -> None:
        """Wait for jobs, and end each one."""
        await asyncio.sleep(random.uniform(0, BEGIN_WITHIN_SECONDS))
        body = {"instance": self._instance, "wait_seconds": _WAIT_SECONDS}
        while True:
            answer = await self._working.post("/claim", json=body)
            now = time.monotonic()
            if answer.status_code == _NO_WORK:
                continue
            if answer.status_code != _DONE:
                tell(trouble=f"claim: {answer.status_code} {answer.text[:300]}")
                await asyncio.sleep(1)
                continue
            job = answer.json()["job"]
            tell(claimed=job["spec"]["snapshot_id"], at=now)
            await asyncio.sleep(random.uniform(2, 10))
            end = {"attempt": job["attempt"], "outcome": "failed", "error": _FAILURE}
            answer = await self._working.post(f"/jobs/{job['id']}/finish", json=end)
            if answer.is_error:
                tell(trouble=f"finish: {answer.status_code} {answer.text[:300]}")


async def poll(url: str, agents: list[dict[str, str]]) -> None:
    """Live until killed."""
    made = [Agent(url, each) for each in agents]
    async with asyncio.TaskGroup() as tasks:
        for each in made:
            tasks.create_task(each.work())
            tasks.create_task(each.live())


if __name__ == "__main__":
    asyncio.run(poll(sys.argv[1], json.load(sys.stdin)))
