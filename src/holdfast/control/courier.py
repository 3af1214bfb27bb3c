"""The courier: takes one parcel to a web address or to a mail relay, and says what came back.

The one place of the control plane that talks to the outside. It does not touch the
database, follows no redirect, uses no proxy of the environment, reads nothing of an answer
but its status, and is done in bounded time whatever the other side does.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, Final

import httpx

from holdfast.control.public_address import resolve
from holdfast.errors import UsageError

STEP_SECONDS: Final = 10.0
"""The longest silence of the other side."""

TOTAL_SECONDS: Final = 30.0
"""The longest that one parcel may take, however busily the other side dawdles."""

_MAX_ANSWER: Final = 200
_MAX_ADDRESSES: Final = 4


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message on its way: `body` and `headers` for the web, the rest for mail."""

    url: str
    body: bytes
    headers: Mapping[str, str]
    subject: str
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether the other side took it, and what it said in a few words."""

    taken: bool
    text: str


@dataclass(frozen=True, slots=True)
class MailRelay:
    """The mail server that takes what is sent from here. `tls`: none, starttls or tls."""

    host: str
    port: int
    sender: str
    user: str = ""
    password: str = field(default="", repr=False)
    tls: str = "starttls"


class Courier:
    """Takes parcels. Thread-safe.

    `private_allowed` lets web addresses lead into private networks, for an installation
    all of whose accounts are trusted with that. Without a relay no mail goes out.
    """

    def __init__(
        self,
        *,
        relay: MailRelay | None = None,
        private_allowed: bool = False,
        trusted: ssl.SSLContext | None = None,
        total_seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._relay = relay
        self._private_allowed = private_allowed
        self._trusted = trusted or ssl.create_default_context()
        self._total_seconds = total_seconds

    def __call__(self, parcel: Parcel) -> Answer:
        """Take it there once. Failures are answers too, never errors."""
        try:
            if parcel.url.startswith("mailto:"):
                return self._mail(parcel)
            return self._post(parcel)
        except UsageError as error:
            return _answer(error.message, taken=False)
        except (httpx.HTTPError, smtplib.SMTPException, OSError, ValueError) as error:
            return _answer(f"{type(error).__name__}: {error}", taken=False)

    def _post(self, parcel: Parcel) -> Answer:
        url = httpx.URL(parcel.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = resolve(url.host, port, private_allowed=self._private_allowed)
        # The address goes where the name was, so that nobody can answer the name anew;
        # the certificate is still checked against the name.
        headers = {**parcel.headers, "Host": url.netloc.decode("ascii")}
        with (
            _Deadline(self._total_seconds) as deadline,
            httpx.Client(
                verify=self._trusted, timeout=STEP_SECONDS, follow_redirects=False, trust_env=False
            ) as client,
        ):
            extensions = {"sni_hostname": url.host, "trace": deadline.trace}
            for last, address in _marked(addresses[:_MAX_ADDRESSES]):
                request = client.build_request(
                    "POST",
                    url.copy_with(host=address),
                    content=parcel.body,
                    headers=headers,
                    extensions=extensions,
                )
                try:
                    response = client.send(request, stream=True)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    if last or deadline.is_over:
                        raise
                    continue
                with contextlib.closing(response):
                    return _judged(response)
        raise AssertionError("unreachable")

    def _mail(self, parcel: Parcel) -> Answer:
        relay = self._relay
        if relay is None:
            raise UsageError("This installation has no mail relay, so no mail can be sent.")
        message = EmailMessage()
        message["From"] = relay.sender
        message["To"] = parcel.url.removeprefix("mailto:")
        message["Subject"] = " ".join(parcel.subject.split())
        message["Date"] = format_datetime(parcel.at)
        message["Message-ID"] = make_msgid(domain=relay.sender.rpartition("@")[2] or None)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(parcel.text)
        with self._connected(relay) as server:
            server.send_message(message)
        return _answer("the relay took it", taken=True)

    @contextlib.contextmanager
    def _connected(self, relay: MailRelay) -> Iterator[smtplib.SMTP]:
        server: smtplib.SMTP
        if relay.tls == "tls":
            server = smtplib.SMTP_SSL(
                relay.host, relay.port, timeout=STEP_SECONDS, context=self._trusted
            )
        else:
            server = smtplib.SMTP(relay.host, relay.port, timeout=STEP_SECONDS)
        try:
            if relay.tls == "starttls":
                server.starttls(context=self._trusted)
            if relay.user:
                server.login(relay.user, relay.password)
            yield server
        finally:
            # What the relay has taken it has taken, however it says goodbye.
            with contextlib.suppress(smtplib.SMTPException, OSError):
                server.quit()
            server.close()


class _Deadline:
    """Cuts the connection of one request when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._over = False

    @property
    def is_over(self) -> bool:
        return self._over

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpx at every step; remembers the connection once there is one."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        with self._lock:
            self._socket = info["return_value"].get_extra_info("socket")
            if self._over:
                self._shut()

    def _cut(self) -> None:
        with self._lock:
            self._over = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _marked(addresses: Sequence[str]) -> Iterator[tuple[bool, str]]:
    for number, address in enumerate(addresses, 1):
        yield number == len(addresses), address


def _judged(response: httpx.Response) -> Answer:
    text = f"{response.status_code} {response.reason_phrase}".strip()
    if response.is_redirect:
        text += " (redirects are not followed; give the address that it leads to)"
    return _answer(text, taken=response.is_success)


def _answer(text: str, *, taken: bool) -> Answer:
    plain = "".join(each if each.isprintable() else " " for each in text)
    return Answer(taken, plain[:_MAX_ANSWER])
