"""`gateway mqtt ...`: looking into the broker of the gateway that runs on the configured data directory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from gateway.cli import Choice
from gateway.serve.control import ask
from gateway.terminal import echo
from protocols.masking import printable
from protocols.server import Row

_DAY_S, _HOUR_S, _MINUTE_S = 86_400, 3_600, 60

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group()
def mqtt() -> None:
    """Look into the MQTT broker of the running gateway; cut a client off."""


@mqtt.command()
@_as_json
def clients(as_json: bool) -> None:
    """List the clients that are connected."""
    _show(_ask("mqtt.clients"), as_json)


@mqtt.command()
@_as_json
def owners(as_json: bool) -> None:
    """List who has sessions or retained messages, and how much of its share: devices, or addresses of other clients."""
    _show(_ask("mqtt.owners"), as_json)


@mqtt.command()
@click.option("--owner", help="Of this one alone, as `owners` names it.")
@_as_json
def sessions(owner: str | None, as_json: bool) -> None:
    """List the sessions, those of absent clients included."""
    _show(_ask("mqtt.sessions", owner=owner), as_json)


@mqtt.command()
@click.argument("client_id", required=False)
@_as_json
def subscriptions(client_id: str | None, as_json: bool) -> None:
    """List the subscriptions of CLIENT_ID, or of all."""
    _show(_ask("mqtt.subscriptions", client_id=client_id), as_json)


@mqtt.command()
@click.argument("topic_filter", default="#")
@click.option("--owner", help="Of this one alone, as `owners` names it.")
@_as_json
def retained(topic_filter: str, owner: str | None, as_json: bool) -> None:
    """List the retained messages that TOPIC_FILTER matches, or all; '$SYS/#' has the broker's own."""
    _show(_ask("mqtt.retained", topic_filter=topic_filter, owner=owner), as_json)


@mqtt.command()
@click.argument("client_id")
def kick(client_id: str) -> None:
    """End the connection of CLIENT_ID. It may connect again: `gateway device disable` keeps a device out."""
    for row in _ask("mqtt.kick", client_id=client_id):
        echo(f"{row['client_id']} at {row['address']} is cut off.", err=True)


@mqtt.command()
@click.option("--owner", help="All of this owner, as `owners` names it: its sessions and its retained messages.")
@click.option("--session", "client_id", help="The session of this client, as `sessions` names it.")
@click.option("--retained", "topic_filter", help="The retained messages that this topic filter matches.")
def forget(**what: str | None) -> None:
    """End what is kept, for good: with what waits in a session, and without the will of its client.

    A client that is connected is cut off. It may come back: `gateway device disable` keeps a device out.
    """
    if sum(name is not None for name in what.values()) != 1:
        raise click.UsageError("give one of --owner, --session, --retained")
    for row in _ask("mqtt.forget", endless=False, **what):
        echo(f"Forgotten: {row['sessions']} sessions, {row['retained']} retained messages.", err=True)


@mqtt.command()
@click.argument("client_id")
@click.option("--payloads", is_flag=True, help="Show the beginning of each payload.")
@_as_json
def trace(client_id: str, payloads: bool, as_json: bool) -> None:
    """Show what CLIENT_ID sends and gets, and what it is refused and why, until Ctrl-C.

    CLIENT_ID is that of the session, as `clients` lists it, or what the client calls itself: then connections that are
    refused are seen too. User names and passwords are not shown.
    """
    try:
        for row in _ask("mqtt.trace", endless=True, client_id=client_id, payloads=payloads):
            echo(json.dumps(row) if as_json else _trace_line(row))
    except KeyboardInterrupt:
        echo(err=True)


def _ask(command: str, *, endless: bool = False, **arguments: Any) -> Iterator[Row]:
    loaded = click.get_current_context().ensure_object(Choice).load()
    given = {name: value for name, value in arguments.items() if value is not None}
    return ask(loaded.config.data_dir, command, endless=endless, **given)


def _trace_line(row: Row) -> str:
    moment = datetime.fromtimestamp(row["time"], UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    words = (moment, row["address"], f"{row['kind']:<7}", row["packet"], row["text"])
    return " ".join(word for word in words if word)


# Tables


def _show(rows: Iterable[Row], as_json: bool) -> None:
    if as_json:
        for row in rows:
            echo(json.dumps(row))
        return
    found = sorted(rows, key=lambda row: [str(cell) for cell in row.values()])
    if found:
        for line in _table(found):
            echo(line)
    echo(f"{len(found)} in all", err=True)


def _table(rows: Sequence[Row]) -> Iterator[str]:
    """Columns under their names, numbers to the right."""
    names = list(rows[0])
    shown = [[_cell(name, row[name]) for name in names] for row in rows]
    widths = [max(len(name), *(len(cells[index]) for cells in shown)) for index, name in enumerate(_titles(names))]
    right = [all(type(row[name]) in (int, type(None)) for row in rows) for name in names]
    for cells in [_titles(names), *shown]:
        aligned = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(cells, widths, right, strict=True)
        ]
        yield "  ".join(aligned).rstrip()


def _titles(names: Sequence[str]) -> list[str]:
    return [name.removesuffix("_s").replace("_", " ") for name in names]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_s"):
        return duration(value)
    return printable(str(value))


_UNITS: Final[Sequence[tuple[int, str]]] = ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m"), (1, "s"))


def duration(seconds: int) -> str:
    """A time span in its two largest units: "3d 4h", "12s"."""
    parts: list[str] = []
    for size, unit in _UNITS:
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
