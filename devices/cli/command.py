"""`gateway command ...`: commands to devices, from the command line."""

import asyncio
from typing import TYPE_CHECKING

import click

from devices.cli.author import author
from devices.cli.finding import find_device
from gateway.cli import setup_django
from gateway.exceptions import GatewayError
from gateway.terminal import echo

if TYPE_CHECKING:
    from devices.models import Command

# Django's models can be imported only once Django is set up, which is why each command imports what it uses.


@click.group()
def command() -> None:
    """Commands to devices: send them, see what became of them.

    A device that is connected has one within a second, any other when it is back, in order.
    """


@command.command()
@click.argument("name")
@click.argument("method")
@click.argument("params_json", default="null")
@click.option("--one-way", is_flag=True, help="The device is not to answer.")
@click.option("--expires", "expires_s", type=float, help="After how many seconds it is too late. Default: a day.")
@click.option(
    "--wait", "wait_s", type=float, help="How many seconds to wait until it is finished. Default: not at all."
)
@click.option("--idempotency-key", help="The same key and command again are the same command.")
@click.pass_context
def send(
    context: click.Context,
    name: str,
    method: str,
    params_json: str,
    one_way: bool,
    expires_s: float | None,
    wait_s: float | None,
    idempotency_key: str | None,
) -> None:
    """Command the device NAME to do something; PARAMS_JSON is any JSON value.

    With --wait, prints the answer as JSON; if none came, prints the state, and the exit code is 1. Without it, prints
    the command's UUID.
    """
    setup_django()
    from devices import commands, json_text
    from devices.commands import State

    sending = commands.send(
        find_device(name),
        method,
        json_text.decode(params_json),
        one_way=one_way,
        expires_s=commands.DEFAULT_EXPIRES_S if expires_s is None else expires_s,
        idempotency_key=idempotency_key,
        wait_s=wait_s,
        by=author(),
    )
    sent = asyncio.run(sending)
    if sent.state == State.ANSWERED:
        echo(sent.answer_json)
    elif wait_s is None:
        echo(sent.uuid)
    else:
        echo(sent.state)
        is_done = sent.one_way and sent.state == State.DELIVERED
        context.exit(0 if is_done else 1)


@command.command("list")
@click.argument("name")
def list_commands(name: str) -> None:
    """List the commands to the device NAME that are kept: UUID, state, method, parameters."""
    setup_django()

    for found in find_device(name).commands.all():
        echo(found.uuid, found.state, found.method, found.params_json)


@command.command()
@click.argument("uuid", type=click.UUID)
def show(uuid: str) -> None:
    """Show a command and what became of it."""
    setup_django()
    from devices.models import shown_time

    found = _find(uuid)
    echo(f"device     {found.device.name}")
    echo(f"method     {found.method}")
    echo(f"params     {found.params_json}")
    echo(f"state      {found.state}")
    echo(f"attempts   {found.attempts}")
    for what, at_ms in (
        ("created", found.created_at_ms),
        ("sent", found.sent_at_ms),
        ("delivered", found.delivered_at_ms),
        ("finished", found.finished_at_ms),
        ("expires", found.expires_at_ms),
    ):
        if at_ms is not None:
            echo(f"{what:<10} {shown_time(at_ms)}")
    for what, text in (("by", found.created_by), ("answer", found.answer_json), ("error", found.error)):
        if text:
            echo(f"{what:<10} {text}")


@command.command()
@click.argument("uuid", type=click.UUID)
def cancel(uuid: str) -> None:
    """Cancel a command that is not finished. A device that has it already is not told."""
    setup_django()
    from devices import commands

    commands.cancel(_find(uuid).uuid, by=author())
    echo(f"The command {uuid} is cancelled.", err=True)


def _find(uuid: str) -> "Command":
    from devices.models import Command

    found = Command.objects.select_related("device").filter(uuid=uuid).first()
    if found is None:
        raise GatewayError(f"there is no command {uuid}")
    return found
