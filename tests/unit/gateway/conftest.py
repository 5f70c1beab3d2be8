"""What the tests of consumers share: a layer of their own, and both ways in which events reach a consumer."""

from collections.abc import Callable, Iterator

import pytest

from gateway.layers import InMemoryChannelLayer, channel_layers
from protocols.asgi import Application, Event, Receive, Scope, Send


@pytest.fixture
def layer() -> Iterator[InMemoryChannelLayer]:
    """A fresh layer under the alias "default"."""
    layer = InMemoryChannelLayer(capacity=5)
    old = channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.pop("default")
    if old is not None:
        channel_layers.set("default", old)


def through_foreign_receive(application: Application) -> Application:
    """`application` as another server runs it, or middleware that wraps `receive`: it does not see the inbox."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def foreign_receive() -> Event:
            return await receive()

        await application(scope, foreign_receive, send)

    return wrapped


@pytest.fixture(params=["our server", "foreign server"])
def served(request: pytest.FixtureRequest) -> Callable[[Application], Application]:
    """Runs the test with a consumer on our inbox, and again on a plain `receive`."""
    return through_foreign_receive if request.param == "foreign server" else lambda application: application
