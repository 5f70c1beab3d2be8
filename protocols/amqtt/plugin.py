"""amqtt's plug-in that asks the application.

Which connection a question is about is in a context variable: amqtt asks in tasks that come of the connection's own.
"""

from dataclasses import dataclass

from amqtt.broker import BrokerContext
from amqtt.contexts import Action
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import ApplicationMessage, Session

from protocols.amqtt.connection import current


class ApplicationPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt has no types for us
    """amqtt's plug-in that asks the application. Other plug-ins are asked too; all have to agree."""

    context: BrokerContext

    @dataclass
    class Config:
        """It has no options."""

    async def authenticate(self, *, session: Session) -> bool | None:
        """See amqtt."""
        connection = current.get()
        return False if connection is None else await connection.authenticate(session)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool | None:
        """See amqtt. What a client receives is decided when it subscribes."""
        connection = current.get()
        if action is Action.RECEIVE:
            return True
        if connection is None or topic is None:
            return False
        if action is Action.PUBLISH:
            return await connection.may_publish(topic)
        return await connection.may_subscribe(topic)

    async def on_broker_message_received(self, *, client_id: str, message: ApplicationMessage | None) -> None:
        """Comes right before amqtt asks whether a client may publish, and has what it publishes."""
        connection = current.get()
        if connection is not None:
            connection.message = message

    async def on_broker_client_unsubscribed(self, *, client_id: str, topic: str) -> None:
        """A client has given a filter up."""
        connection = current.get()
        if connection is not None:
            connection.unsubscribed(topic)

    async def publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        """Gives a message to all subscribers."""
        await self.context.broadcast_message(topic, payload, qos)
        if retain:
            await self.context.retain_message(topic, payload, qos)
