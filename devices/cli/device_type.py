"""`gateway device-type ...`: types of devices, from the command line."""

import click

from gateway.cli import setup_django
from gateway.exceptions import GatewayError
from gateway.terminal import echo

# Django's models can be imported only once Django is set up, which is why each command imports what it uses.


@click.group("device-type")
def device_type() -> None:
    """Types of devices: how their devices get their credentials."""


@device_type.command()
@click.argument("name")
@click.option(
    "--strategy",
    type=click.Choice(["create", "imported", "off"]),
    required=True,
    help="Make the devices that ask; give credentials to those imported before only; or none to any.",
)
def provisioning(name: str, strategy: str) -> None:
    """Let devices of the type NAME get their credentials by a key and a secret, which are printed, and not shown again.

    A key and a secret that there are end.
    """
    setup_django()
    from devices.models import DeviceType
    from devices.provisioning import Strategy, disable, enable

    found = DeviceType.objects.filter(name=name).first()
    if found is None:
        raise GatewayError(f"there is no device type {name!r}")
    if strategy == "off":
        disable(found)
        echo(f"Devices of type {name} are not provisioned.", err=True)
        return
    key, secret = enable(found, Strategy(strategy))
    echo(f"key     {key}")
    echo(f"secret  {secret}")
    echo("The secret is not shown again.", err=True)
