"""The courier against real servers: what it takes for taken, and where it does not go."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast.control.courier import Courier, MailRelay, Parcel
from holdfast.control.public_address import is_public, resolve
from holdfast.errors import UsageError

NOW = datetime(2026, 11, 2, 10, 0, tzinfo=UTC)


def parcel(url: str) -> Parcel:
    return Parcel(
        url=url,
        body=b'{"id":1}',
        headers={"Content-Type": "application/json", "Holdfast-Event": "host.silent"},
        subject="[Team] host.silent:\n a line",
        text="The host is silent.\n",
        at=NOW,
    )


class Site:
    """A web server that answers by path, and keeps what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, str, bytes]] = []
        self.heard_out = False
        """Whether somebody has listened to all of what drips."""

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@contextlib.contextmanager
def site(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            running.asked.append((self.path, self.headers["Host"], body))
            if self.path == "/drip":
                with contextlib.suppress(OSError):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    for _ in range(1200):
                        self.wfile.write(b"X-Drip: 1\r\n")
                        time.sleep(0.05)
                    running.heard_out = True
                return
            status = {"/ok": 204, "/moved": 302, "/broken": 500}.get(self.path, 404)
            self.send_response(status)
            self.send_header("Location", "/ok")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    running = Site(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server that is called `name` and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(path)
    return serving, ssl.create_default_context(cafile=str(path))


def test_a_status_of_success_is_taken() -> None:
    with site() as running:
        courier = Courier(private_allowed=True)
        answer = courier(parcel(running.url("/ok", host="localhost")))
        assert (answer.taken, answer.text) == (True, "204 No Content")
        assert running.asked == [("/ok", f"localhost:{running.port}", b'{"id":1}')]
        for path, code in (("/broken", "500"), ("/nowhere", "404")):
            answer = courier(parcel(running.url(path)))
            assert not answer.taken
            assert answer.text.startswith(code)


def test_redirects_are_not_followed() -> None:
    with site() as running:
        answer = Courier(private_allowed=True)(parcel(running.url("/moved")))
        assert not answer.taken
        assert "not followed" in answer.text
        assert [path for path, _, _ in running.asked] == ["/moved"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "0"]
)
def test_the_servers_own_network_is_not_asked(host: str) -> None:
    with site() as running:
        answer = Courier()(parcel(running.url("/ok", host=host)))
        assert not answer.taken
        assert "not an address on the public internet" in answer.text
        assert running.asked == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with site() as running, site() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url(""))
        assert Courier(private_allowed=True)(parcel(running.url("/ok"))).taken
        assert proxy.asked == []


def test_who_dawdles_is_cut_off() -> None:
    with site() as running:
        answer = Courier(private_allowed=True, total_seconds=0.3)(parcel(running.url("/drip")))
        assert not answer.taken
        assert [path for path, _, _ in running.asked] == ["/drip"]
        assert not running.heard_out


def test_nobody_there_is_an_answer() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        answer = Courier(private_allowed=True)(parcel(url))
    assert not answer.taken
    assert "refused" in answer.text
    answer = Courier(private_allowed=True)(parcel("https://no-such-name.invalid/"))
    assert not answer.taken


def test_a_certificate_is_checked_against_the_name(tmp_path: Path) -> None:
    """Also though the connection goes to an address."""
    serving, trusting = certificate(tmp_path, "localhost")
    with site(serving) as running:
        courier = Courier(private_allowed=True, trusted=trusting)
        assert courier(parcel(running.url("/ok", "localhost", "https"))).taken
        assert not courier(parcel(running.url("/ok", "127.0.0.1", "https"))).taken
        assert not Courier(private_allowed=True)(
            parcel(running.url("/ok", "localhost", "https"))
        ).taken
        assert len(running.asked) == 1


@contextlib.contextmanager
def relay(answers: dict[str, bytes] | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A mail server that takes what is sent, unless told otherwise; its port, and the mail."""
    mail: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 relay\r\n")
            while line := self.rfile.readline():
                word = line.split()[0].upper().decode()
                self.wfile.write(
                    (answers or {}).get(word, b"354 go\r\n" if word == "DATA" else b"250 ok\r\n")
                )
                if word == "DATA" and word not in (answers or {}):
                    lines = []
                    while (each := self.rfile.readline()) != b".\r\n":
                        lines.append(each)
                    mail.append(b"".join(lines))
                    self.wfile.write(b"250 taken\r\n")
                if word == "QUIT":
                    return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1], mail
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_mail_goes_through_the_relay() -> None:
    """S7: e-mail."""
    with relay() as (port, mail):
        courier = Courier(relay=MailRelay("127.0.0.1", port, "holdfast@example.org", tls="none"))
        assert courier(parcel("mailto:ops@example.org")).taken
    (text,) = mail
    assert b"To: ops@example.org\r\n" in text
    assert b"Subject: [Team] host.silent: a line\r\n" in text
    assert b"Auto-Submitted: auto-generated" in text
    assert b"The host is silent." in text


def test_mail_that_is_refused_is_an_answer() -> None:
    with relay({"RCPT": b"550 nobody\r\n"}) as (port, mail):
        courier = Courier(relay=MailRelay("127.0.0.1", port, "holdfast@example.org", tls="none"))
        assert not courier(parcel("mailto:ops@example.org")).taken
        # A relay that offers no encryption gets nothing where that was asked for.
        strict = Courier(relay=MailRelay("127.0.0.1", port, "holdfast@example.org"))
        assert not strict(parcel("mailto:ops@example.org")).taken
        assert mail == []
    answer = Courier()(parcel("mailto:ops@example.org"))
    assert not answer.taken
    assert "no mail relay" in answer.text
    assert "password" not in repr(MailRelay("h", 25, "s", password="password"))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


def test_one_private_address_condemns_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver is the outside here: it answers as whoever owns the name wants."""

    def answering(*addresses: str) -> Callable[..., list[Any]]:
        return lambda *_, **__: [(2, 1, 6, "", (each, 443)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answering("8.8.8.8", "10.0.0.1"))
    with pytest.raises(UsageError, match=r"10\.0\.0\.1"):
        resolve("rebind.example.org", 443, private_allowed=False)
    assert resolve("x", 443, private_allowed=True) == ["8.8.8.8", "10.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", answering("8.8.8.8", "8.8.8.8"))
    assert resolve("x", 443, private_allowed=False) == ["8.8.8.8"]
