"""Communicators for applications that have to ask a server first: they wait for it, however busy the machine is."""

from gateway.testing import HttpCommunicator, WebsocketCommunicator
from gateway.testing.application import ApplicationCommunicator
from protocols.asgi import Event

PATIENCE_S = 60.0


class _Patient(ApplicationCommunicator):
    async def receive_output(self, timeout: float = PATIENCE_S) -> Event:
        """The next event, whatever the time-out of who asks."""
        return await super().receive_output(max(timeout, PATIENCE_S))

    async def wait(self, timeout: float = PATIENCE_S) -> None:
        """Returns when the application has ended, whatever the time-out of who asks."""
        await super().wait(max(timeout, PATIENCE_S))


class PatientWebsocket(_Patient, WebsocketCommunicator):
    """A WebSocket."""


class PatientHttp(_Patient, HttpCommunicator):
    """A request."""
