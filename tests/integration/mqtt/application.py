"""The ASGI application of these tests: it accepts everything, in the least that docs/events.md asks for."""

from protocols.asgi import Event, Receive, Scope, Send


class AcceptEverything:
    """Accepts every connection, publish and subscription, and keeps each scope and event for the test to read.

    An event is in `events` when its answer has been given to the server: what follows from the answer, a subscription
    that is in force, a message that is routed, holds from then on.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.events: list[tuple[str, Event]] = []

    def seen(self, event_type: str, client_id: str) -> list[Event]:
        """The events of this type and client so far."""
        return [event for name, event in self.events if name == client_id and event["type"] == event_type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        while True:
            event = await receive()
            match event["type"]:
                case "mqtt.connect":
                    await send({"type": "mqtt.accept"})
                case "mqtt.publish":
                    await self.publish(event, send)
                case "mqtt.subscribe":
                    granted = [subscription["qos"] for subscription in event["subscriptions"]]
                    await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": granted})
                case "mqtt.unsubscribe":
                    codes = [0] * len(event["topic_filters"])
                    await send({"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": codes})
            self.events.append((scope["client_id"], event))
            if event["type"] == "mqtt.disconnect":
                return

    async def publish(self, event: Event, send: Send) -> None:
        """Answers a publish: what most tests that need another application change."""
        await send({"type": "mqtt.ack", "ack_id": event["ack_id"]})
