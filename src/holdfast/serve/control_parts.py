"""The control plane of a server: its database, keys and deployment, and what runs on them.

Opening it brings the database's schema up to date and makes what a first start needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from fastapi import FastAPI

from holdfast import __version__
from holdfast.api.app import make_app
from holdfast.compat.lium import app as lium
from holdfast.compat.qarnot import app as qarnot
from holdfast.control import migrate
from holdfast.control.clockwork import Clockwork
from holdfast.control.courier import Courier, MailRelay
from holdfast.control.database import Database
from holdfast.control.delivery import deliver
from holdfast.control.price_source import refresh_due
from holdfast.control.sealing import MasterKeys
from holdfast.edge.deployment import Deployment, Limits, wall_clock
from holdfast.errors import UsageError
from holdfast.serve.first_start import (
    FirstStart,
    first_start,
    gateway_credential,
    master_keys,
    read_secret,
)
from holdfast.serve.settings import Settings
from holdfast.serve.ticker import Ticker

_CLOCKWORK_SECONDS = 1.0
_DELIVERY_SECONDS = 2.0
_PRICE_SECONDS = 60.0
_SMTP_PORT = 587


@dataclass(frozen=True, slots=True)
class ControlParts:
    """What the parts of one process share."""

    settings: Settings
    database: Database
    keys: MasterKeys
    first: FirstStart
    replica_id: str
    clock: Callable[[], datetime] = wall_clock

    @classmethod
    def open(
        cls, settings: Settings, *, replica_id: str, clock: Callable[[], datetime] = wall_clock
    ) -> ControlParts:
        """Open the database, upgrade it, and make the first account where there is none."""
        database = Database(settings.database)
        try:
            migrate.upgrade(database)
            keys = master_keys(settings, database)
            first = first_start(settings, database, keys, now=clock())
        except BaseException:
            database.close()
            raise
        return cls(settings, database, keys, first, replica_id, clock)

    def close(self) -> None:
        self.database.close()

    def deployment(self, local_url: str) -> Deployment:
        settings = self.settings
        public = settings.public_url or local_url
        return Deployment(
            self.database,
            self.keys,
            public_url=public,
            gateway_url=settings.gateway_url or public,
            version=__version__,
            replica_id=self.replica_id,
            clock=self.clock,
            lease_seconds=settings.lease_seconds,
            limits=Limits(
                address_rate=float(settings.address_requests_per_second),
                address_burst=settings.request_burst,
                token_rate=float(settings.token_requests_per_second),
                token_burst=settings.request_burst,
            ),
            trusted_proxies=settings.proxy_networks,
            gateway_networks=settings.own_networks,
        )

    def api(self, deployment: Deployment) -> FastAPI:
        return make_app(deployment)

    def lium(self, deployment: Deployment) -> FastAPI:
        return lium.make_app(deployment)

    def qarnot(self, deployment: Deployment) -> FastAPI:
        return qarnot.make_app(deployment)

    def gateway_credential(self) -> str:
        account_id = self.first.account_id
        return gateway_credential(self.settings, self.database, account_id, now=self.clock())

    def tickers(self) -> Iterator[tuple[Ticker, Callable[[], None]]]:
        """What runs by the clock, each with what is to be done after it has stopped."""
        clockwork = Clockwork(self.database, self.keys, replica_id=self.replica_id)
        yield (
            Ticker("clockwork", _CLOCKWORK_SECONDS, lambda: clockwork.tick(self.clock())),
            lambda: clockwork.resign(self.clock()),
        )
        courier = Courier(relay=self._relay(), private_allowed=self.settings.private_webhooks)

        def deliver_all() -> None:
            while deliver(self.database, self.keys, now=self.clock(), send=courier):
                pass

        yield Ticker("deliveries", _DELIVERY_SECONDS, deliver_all), _nothing
        source = self.settings.price_source or None
        yield (
            Ticker(
                "prices",
                _PRICE_SECONDS,
                lambda: refresh_due(self.database, source, now=self.clock()),
            ),
            _nothing,
        )

    def _relay(self) -> MailRelay | None:
        settings = self.settings
        if not settings.smtp_server:
            return None
        host, _, port = settings.smtp_server.partition(":")
        password = ""
        if settings.smtp_password_file:
            try:
                password = read_secret(settings.smtp_password_file)
            except OSError as error:
                raise UsageError(
                    f"The file of the setting smtp_password_file cannot be read: {error.strerror}."
                ) from None
        return MailRelay(
            host,
            int(port) if port else _SMTP_PORT,
            settings.mail_from,
            user=settings.smtp_user,
            password=password,
            tls=settings.smtp_tls,
        )


def _nothing() -> None:
    pass
