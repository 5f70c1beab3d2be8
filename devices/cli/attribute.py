"""`gateway attribute ...`: attributes of devices, from the command line."""

from collections.abc import Iterable
from typing import Any

import click

from devices.cli.author import author
from devices.cli.finding import find_device
from gateway.cli import setup_django
from gateway.exceptions import GatewayError
from gateway.terminal import echo

# Django's models can be imported only once Django is set up, which is why each command imports what it uses.

_settable = click.argument("scope", type=click.Choice(["shared", "server"]))
_any_scope = click.argument("scope", type=click.Choice(["client", "shared", "server"]))


@click.group()
def attribute() -> None:
    """Attributes of devices: what they report (client), what they are to be (shared), what people note (server).

    A device that is connected is told of changed shared ones within a second, any other when it is back.
    """


@attribute.command("set")
@click.argument("name")
@_settable
@click.argument("assignments", nargs=-1, required=True, metavar="KEY=JSON...")
def set_values(name: str, scope: str, assignments: tuple[str, ...]) -> None:
    """Set attributes of the device NAME; all of them or, if one is refused, none."""
    setup_django()
    from devices.attributes import Scope, set_attributes

    found = find_device(name)
    values = dict(_assignments(assignments))
    set_attributes(found.pk, Scope(scope), values, by=author())
    echo(f"{len(values)} {scope} attribute(s) of {name} are set.", err=True)


@attribute.command()
@click.argument("name")
@_any_scope
@click.argument("keys", nargs=-1)
def get(name: str, scope: str, keys: tuple[str, ...]) -> None:
    """Print attributes of the device NAME, those of KEYS or all: key, JSON, version, who has set it."""
    setup_django()
    from devices import json_text
    from devices.attributes import Scope, get_attributes

    for key, stored in get_attributes(find_device(name).pk, Scope(scope), keys or None).items():
        echo(key, json_text.encode(stored.value), stored.version, stored.changed_by)


@attribute.command()
@click.argument("name")
@_settable
@click.argument("keys", nargs=-1, required=True)
def delete(name: str, scope: str, keys: tuple[str, ...]) -> None:
    """Delete the attributes KEYS of the device NAME."""
    setup_django()
    from devices.attributes import Scope, delete_attributes

    deleted = delete_attributes(find_device(name).pk, Scope(scope), keys, by=author())
    echo(f"{len(deleted)} {scope} attribute(s) of {name} are deleted.", err=True)


def _assignments(texts: Iterable[str]) -> "Iterable[tuple[str, Any]]":
    """Keys and values. Raises GatewayError."""
    from devices import json_text

    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise GatewayError(f"{text!r} is no KEY=JSON")
        try:
            yield key, json_text.decode(value)
        except json_text.NoJsonError as error:
            raise GatewayError(f"{key}: {error}; a text is written as '{key}=\"text\"'") from None
