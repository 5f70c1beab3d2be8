"""`gateway explain`: why a device is not let in, or what it sends is not there."""

import click

from devices.cli.finding import device_of_client
from gateway.cli import setup_django
from gateway.exceptions import GatewayError
from gateway.terminal import echo


@click.command()
@click.argument("subject")
def explain(subject: str) -> None:
    """Say what a device was refused lately, what that means and what to do.

    SUBJECT is the name of a device or of one of its MQTT clients, an access token, an address, or what an unknown
    client calls itself. A token is not shown.
    """
    setup_django()
    from devices.explanations import explain as lines_of

    device = device_of_client(subject)
    try:
        for line in lines_of(subject if device is None else device.name):
            echo(line)
    except LookupError:
        raise GatewayError("nothing is known of that: no device, token, address, or client that was refused") from None
