"""Enhanced authentication of MQTT 5 consumers: exchanges of AUTH packets, as `mqtt.auth` in docs/events.md."""

from typing import Any, Protocol

from gateway.exceptions import Reject
from gateway.generic.mqtt_replies import MqttPeerState
from protocols.asgi import Event
from protocols.mqtt import ReasonCode, events


class AuthMechanism(Protocol):
    """One exchange by some method, such as gateway.mqtt.scram.ScramServer."""

    @property
    def done(self) -> bool:
        """Whether the client has proved who it is."""

    @property
    def identity(self) -> str:
        """Who it is; to be believed once `done`."""

    async def step(self, data: bytes | None) -> bytes | None:
        """The answer to what the client has sent. Raises Reject."""


class MqttAuthentication(MqttPeerState, events=()):
    """The part of a consumer that leads these exchanges."""

    authenticated: AuthMechanism | None = None
    """The last exchange that has succeeded; None if the client has named no method."""

    __method: str | None = None
    __mechanism: AuthMechanism | None = None
    __answer: bytes | None = None

    async def begin_authentication(self, method: str) -> AuthMechanism | None:
        """Called when the client names an authentication method, and when it authenticates once more.

        Returns the exchange to lead, None to refuse the method (0x8C), which is what happens unless overridden.
        """
        return None

    async def reauthenticated(self, before: AuthMechanism) -> None:
        """Called when the client has authenticated once more; raises Reject to end the connection.

        Unless overridden, refuses a client that has become somebody else (0x87).
        """
        self._require_identity_of(before)

    def _require_identity_of(self, before: AuthMechanism) -> None:
        assert self.authenticated is not None
        if self.authenticated.identity != before.identity:
            raise Reject(ReasonCode.NOT_AUTHORIZED, "another identity than before")

    async def _gateway_authenticated(self, event: Event) -> bool:
        """Whether `connect` is to be called now: the client has named no method, or needs no further message."""
        self.__method = event.get("authentication_method")
        return self.__method is None or await self.__begin(event.get("authentication_data"))

    async def _gateway_continues(self, event: Event) -> bool:
        """Whether `connect` is to be called now: the exchange that `mqtt.connect` has begun is done."""
        before = self.authenticated
        if not (await self.__begin(event["data"]) if event["reauthenticate"] else await self.__step(event["data"])):
            return False
        if before is None:
            return True
        await self._gateway_call(self.reauthenticated, before)
        await self._gateway_send(events.auth_to_client(data=self.__answer, reason_code=ReasonCode.SUCCESS))
        return False

    def _gateway_proof(self) -> dict[str, Any]:
        """What `mqtt.accept` says of the exchange."""
        if self.authenticated is None:
            return {}
        proof: dict[str, Any] = {"authentication_method": self.__method}
        return proof if self.__answer is None else proof | {"authentication_data": self.__answer}

    async def __begin(self, data: bytes | None) -> bool:
        assert self.__method is not None
        self.__mechanism = await self._gateway_call(self.begin_authentication, self.__method)
        if self.__mechanism is None:
            raise Reject(ReasonCode.BAD_AUTHENTICATION_METHOD, "no such authentication method here")
        return await self.__step(data)

    async def __step(self, data: bytes | None) -> bool:
        mechanism = self.__mechanism
        assert mechanism is not None
        self.__answer = await mechanism.step(data)
        if not mechanism.done:
            await self._gateway_send(events.auth_to_client(data=self.__answer))
            return False
        self.authenticated, self.__mechanism = mechanism, None
        return True
