"""A call: one request whose caller is known, and what answering it needs.

It is made before the request's body is read, so that nobody without a credential costs more
than looking that up, or learns what an operation would accept. Three kinds of caller are kept
apart: people with their tokens, agents, and gateways.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Final

from fastapi import Depends, Request

from holdfast.control.database import Tx
from holdfast.control.principal import Principal
from holdfast.control.sealing import MasterKeys
from holdfast.edge.credentials import AGENTS, GATEWAYS, PEOPLE, authenticate
from holdfast.edge.deployment import Deployment
from holdfast.errors import GatewayNotSignedIn, NotSignedIn


def deployment_of(request: Request) -> Deployment:
    """The deployment that this app serves."""
    deployment: Deployment = request.app.state.deployment
    return deployment


@dataclass(frozen=True, slots=True)
class Visit:
    """A request of nobody in particular: signing in, enrolling, asking for the version."""

    request: Request
    deployment: Deployment
    now: datetime

    @property
    def keys(self) -> MasterKeys:
        """The master keys, for services that seal or open secrets."""
        return self.deployment.keys

    @property
    def address(self) -> str:
        """Where the request comes from."""
        address: str = self.request.state.address
        return address

    @property
    def request_id(self) -> str:
        """The request's id, as logs and the audit have it."""
        request_id: str = self.request.state.request_id
        return request_id

    def reading(self) -> AbstractContextManager[Tx]:
        """A transaction that changes nothing."""
        return self.deployment.database.read()

    def writing(self) -> AbstractContextManager[Tx]:
        """A transaction that is committed at its end."""
        return self.deployment.database.write()


@dataclass(frozen=True, slots=True)
class Call(Visit):
    """A request of a known caller."""

    who: Principal


def identify(request: Request, credential: str) -> Call:
    """Find out who asks, with a credential of this kind; the request remembers it."""
    deployment = deployment_of(request)
    now = deployment.clock()
    try:
        who = authenticate(request, deployment, kinds=_KINDS[credential], now=now)
    except NotSignedIn as error:
        if credential == "gateway":  # or it would pass this on as being about its caller
            raise GatewayNotSignedIn(error.message) from None
        raise
    call = Call(request, deployment, now, who)
    request.state.call = call
    return call


async def _visit(request: Request) -> Visit:
    deployment = deployment_of(request)
    return Visit(request, deployment, deployment.clock())


async def _of_people(request: Request) -> Call:
    return _identified(request)


async def _of_agent(request: Request) -> Call:
    return _identified(request)


async def _of_gateway(request: Request) -> Call:
    return _identified(request)


def _identified(request: Request) -> Call:
    call: Call = request.state.call
    # The request object may be another one by now, with the body's limit.
    return replace(call, request=request)


_KINDS: Final = {"people": PEOPLE, "agent": AGENTS, "gateway": GATEWAYS}

Anybody = Annotated[Visit, Depends(_visit)]
"""No credential is needed."""

Asked = Annotated[Call, Depends(_of_people)]
"""Somebody who signed in, or an access token."""

AskedByAgent = Annotated[Call, Depends(_of_agent)]
"""An enrolled host's agent."""

AskedByGateway = Annotated[Call, Depends(_of_gateway)]
"""A data plane."""

CREDENTIALS: Final = {_of_people: "people", _of_agent: "agent", _of_gateway: "gateway"}
"""Which dependency needs which kind of credential; the route has it identified before."""
