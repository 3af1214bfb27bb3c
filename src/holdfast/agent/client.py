"""What an agent says to the control plane: one method per call, errors of our own tree.

It retries nothing and keeps nothing; when to try again is for the caller to know. Only the
API is spoken here, never the gateway. Invariant: whatever happens on the way, only errors
of the tree leave this module, and none of them holds the credential.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson

from holdfast import __version__
from holdfast.errors import (
    Conflict,
    Forbidden,
    HoldfastError,
    NotFound,
    NotSignedIn,
    ServerUnavailable,
    TooManyRequests,
    UsageError,
)

_BASE: Final = "/api/v1/agent"
_CONNECT_SECONDS: Final = 10.0
_ANSWER_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """One job under lease: what is to be done, and where the repository is.

    `source` is the repository that a copy is made from; other jobs have none.
    """

    id: str
    kind: str
    attempt: int
    spec: dict[str, Any]
    spec_version: int
    lease_seconds: float
    account_id: str
    correlation_id: str
    repository: dict[str, Any] | None
    source: dict[str, Any] | None = None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ClaimedJob:
        job = document["job"]
        return cls(
            id=str(job["id"]),
            kind=str(job["kind"]),
            attempt=int(job["attempt"]),
            spec=dict(job["spec"]),
            spec_version=int(job.get("spec_version", 1)),
            lease_seconds=float(job["lease_seconds"]),
            account_id=str(job.get("account_id", "")),
            correlation_id=str(job.get("correlation_id", "")),
            repository=document.get("repository"),
            source=document.get("source"),
        )


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat: when the next one is due, and which jobs are to stop.

    `forsaken` are jobs that have ended and whose computations were said to be here.
    """

    interval_seconds: float
    stop: tuple[str, ...]
    forsaken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer to a report: whether the job is to be cancelled, and a task's orders."""

    cancel: bool
    orders: dict[str, Any] | None = None


class ControlClient:
    """Speaks to one server. Thread-safe; not to be used in a forked child."""

    def __init__(self, server: str, secret: str | None, ca_certificate: str | None = None) -> None:
        context = ssl.create_default_context()
        if ca_certificate is not None:
            try:
                context.load_verify_locations(cadata=ca_certificate)
            except (ssl.SSLError, ValueError) as error:
                raise UsageError("The certificate to trust is not one in PEM form.") from error
        headers = {"User-Agent": f"holdfast-agent/{__version__}"}
        if secret is not None:
            headers["Authorization"] = f"Bearer {secret}"
        self._server = server.rstrip("/")
        self._client = httpx.Client(verify=context, headers=headers)

    def close(self) -> None:
        self._client.close()

    def enrol(
        self, token: str, *, name: str, roots: Sequence[Mapping[str, str]], inventory: object
    ) -> tuple[str, str]:
        """Use a one-time token up; return the host's id and its credential."""
        answer = self._post(
            "enrol",
            {
                "token": token,
                "name": name,
                "version": __version__,
                "roots": list(roots),
                "inventory": inventory,
            },
        )
        return str(answer["host_id"]), str(answer["credential"])

    def heartbeat(
        self,
        instance: str,
        *,
        inventory: object,
        running: Sequence[Mapping[str, Any]],
        computations: Sequence[str] = (),
    ) -> Beat:
        body = {
            "instance": instance,
            "version": __version__,
            "inventory": inventory,
            "running": list(running),
        }
        if computations:
            body["computations"] = list(computations)
        answer = self._post("heartbeat", body)
        return Beat(
            float(answer.get("interval_seconds", 15)),
            tuple(str(each) for each in answer.get("stop") or ()),
            tuple(str(each) for each in answer.get("forsaken") or ()),
        )

    def claim(
        self, instance: str, wait_seconds: int, room: Mapping[str, int] | None = None
    ) -> ClaimedJob | None:
        """Wait for a job; None when none came.

        `room` says for how many of which there is place: ``{"jobs": n, "tasks": n}``.
        """
        body: dict[str, Any] = {"instance": instance, "wait_seconds": wait_seconds}
        if room is not None:
            body["room"] = dict(room)
        answer = self._post("claim", body, patience_seconds=wait_seconds)
        try:
            return ClaimedJob.from_document(answer) if answer else None
        except (KeyError, TypeError, ValueError):
            raise ServerUnavailable(
                "The server's answer to a claim is no job; is it of the agent's version?"
            ) from None

    def progress(
        self,
        job_id: str,
        *,
        attempt: int,
        stage: str,
        progress: Mapping[str, Any],
        lines: Sequence[Mapping[str, str]],
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> Heard:
        """Renew a lease, and say what is new."""
        body: dict[str, Any] = {
            "attempt": attempt,
            "stage": stage,
            "progress": dict(progress),
            "lines": list(lines),
        }
        if messages:
            body["messages"] = list(messages)
        answer = self._post(f"jobs/{quote(job_id, safe='')}/progress", body)
        orders = answer.get("orders")
        return Heard(bool(answer.get("cancel")), orders if isinstance(orders, dict) else None)

    def finish(self, job_id: str, report: Mapping[str, Any]) -> None:
        """Report how a job ended; `report` is the whole body."""
        self._post(f"jobs/{quote(job_id, safe='')}/finish", report)

    def _post(
        self, path: str, body: Mapping[str, Any], *, patience_seconds: float = 0.0
    ) -> dict[str, Any]:
        timeout = httpx.Timeout(_ANSWER_SECONDS + patience_seconds, connect=_CONNECT_SECONDS)
        try:
            response = self._client.post(
                f"{self._server}{_BASE}/{path}",
                content=orjson.dumps(body),
                headers={"Content-Type": "application/json"},
                timeout=timeout,
            )
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise self._unreached(error) from error
        if response.status_code == 204:
            return {}
        if response.is_success:
            try:
                answer = orjson.loads(response.content)
            except ValueError:
                answer = None
            if isinstance(answer, dict):
                return answer
            raise ServerUnavailable(
                f"{self._server} does not answer as a Holdfast server does; check the address."
            )
        raise _error_of(response, self._server)

    def _unreached(self, error: Exception) -> ServerUnavailable:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            why = "its certificate is not trusted; see the setting ca_certificate_file"
        elif isinstance(error, httpx.TimeoutException):
            why = "it does not answer in time"
        else:
            why = "it cannot be reached"
        return ServerUnavailable(f"The server {self._server}: {why}.")


def _error_of(response: httpx.Response, server: str) -> HoldfastError:
    """The error of the tree that a problem document tells of; by status where it is none."""
    status = response.status_code
    code, detail = "", ""
    try:
        document = orjson.loads(response.content)
        code, detail = str(document["code"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"The server {server} answered {status}."
    if status == 429:
        return TooManyRequests(detail, _seconds(response.headers.get("retry-after")))
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(detail)
    if status >= 500 or status == 408:
        return ServerUnavailable(detail)
    by_status: dict[int, type[HoldfastError]] = {
        401: NotSignedIn,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
    }
    return by_status.get(status, UsageError)(detail)


def _seconds(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 1


def _classes(kind: type[HoldfastError] = HoldfastError) -> Iterator[type[HoldfastError]]:
    for each in kind.__subclasses__():
        if each is not TooManyRequests:
            yield each
        yield from _classes(each)


_BY_CODE: Final = {each.code: each for each in _classes()}
