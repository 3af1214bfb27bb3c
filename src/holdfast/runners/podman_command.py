"""Calls of the ``podman`` command, and what its answers mean.

Invariant: no call waits for a person, and none outlasts its time except a pull.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from typing import IO, Any, Final

from holdfast.errors import HoldfastError, RunnerUnavailable

_CALL_SECONDS: Final = 120.0


class PodmanCommand:
    """`program` is the command with its global options."""

    def __init__(self, program: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._program = program
        self._environment = environment

    def line(self, *arguments: str) -> list[str]:
        """The whole command line of a call."""
        return [*self._program, *arguments]

    def run(
        self,
        *arguments: str,
        check: bool = True,
        error: type[HoldfastError] = RunnerUnavailable,
    ) -> bytes:
        """Call it and return what it prints; a failure is `error`, with podman's own words."""
        try:
            done = subprocess.run(
                self.line(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_CALL_SECONDS,
                check=False,
                env=self._environment,
            )
        except subprocess.TimeoutExpired:
            raise RunnerUnavailable(
                f"podman {arguments[0]} did not end within {_CALL_SECONDS:.0f} s; try again later."
            ) from None
        except OSError as problem:
            raise self._missing(problem) from None
        if check and done.returncode != 0:
            said = _last_line(done.stderr) or f"it ended with status {done.returncode}"
            raise error(f"podman {arguments[0]} failed: {said}")
        return done.stdout

    def attached(self, *arguments: str, stdout: IO[bytes], stderr: IO[bytes]) -> int:
        """Call it with these files as its output, and return its status."""
        try:
            return subprocess.run(
                self.line(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                timeout=_CALL_SECONDS,
                check=False,
                env=self._environment,
            ).returncode
        except subprocess.TimeoutExpired:
            raise RunnerUnavailable(f"podman {arguments[0]} did not end in time.") from None
        except OSError as problem:
            raise self._missing(problem) from None

    def detached(self, *arguments: str) -> None:
        """Call it so that the call outlives this process; how it ends is not heard."""
        subprocess.run(
            ["setsid", "--fork", *self.line(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            env=self._environment,
        )

    def followed(self, *arguments: str, report: Callable[[str], None]) -> tuple[int, str]:
        """Call it, passing on each line as it comes; return its status and the last line."""
        last = ""
        with subprocess.Popen(
            self.line(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment,
        ) as process:
            assert process.stdout is not None
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").strip()
                if line:
                    last = line
                    report(line)
        return process.returncode, last

    def container(self, name: str) -> dict[str, Any] | None:
        """The state of a container, or None where there is none of that name."""
        found = self._inspect("container", name)
        return None if found is None else dict(found["State"])

    def image(self, name: str) -> dict[str, Any] | None:
        """What is known of an image of this host, or None where it is not there."""
        return self._inspect("image", name)

    def version(self) -> str | None:
        """Podman's version, or None where podman cannot be used here."""
        try:
            found = json.loads(self.run("info", "--format", "json"))
        except RunnerUnavailable:
            return None
        return str(found["version"]["Version"])

    def _inspect(self, kind: str, name: str) -> dict[str, Any] | None:
        # It says the same status for what is not there and for what went wrong.
        try:
            answer = json.loads(self.run(kind, "inspect", "--format", "json", name))
        except RunnerUnavailable as error:
            if "no such container" in error.message or "image not known" in error.message:
                return None
            raise
        return dict(answer[0])

    def _missing(self, problem: OSError) -> RunnerUnavailable:
        return RunnerUnavailable(
            f"{self._program[0]} cannot be run: {problem.strerror}. Install podman on this host."
        )


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""
