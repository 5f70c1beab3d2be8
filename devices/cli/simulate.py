"""`gateway simulate`: a fleet of devices that are none."""

import asyncio
import contextlib
import json
import signal
import socket
import time
from urllib.parse import urlsplit

import click

from gateway.cli import program, setup_django
from gateway.exceptions import GatewayError
from gateway.terminal import echo

# Django's models can be imported only once Django is set up.

_TCP_TIMEOUT_S = 5.0


@click.command()
@click.option("--devices", "count", type=click.IntRange(1, 10_000), default=10, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, 100_000, min_open=True),
    help="Messages a second, of all together. Default: one of each device.",
)
@click.option("--url", default="mqtt://127.0.0.1:1883", show_default=True, help="Where the gateway listens.")
@click.option("--for", "for_s", type=click.FloatRange(0, min_open=True), help="Seconds. Default: until Ctrl-C.")
@click.option("--storm-every", type=click.FloatRange(1), help="Cut all connections every so many seconds.")
@click.option(
    "--faults",
    type=(click.Choice(["payload", "topic", "cut"]), click.FloatRange(0, 100)),
    multiple=True,
    metavar="KIND PERCENT",
    help="Of the messages: payload (no JSON), topic (a wrong one), cut (the connection instead). Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a second, the last one has all.")
@click.option("--cleanup", is_flag=True, help="Delete the simulated devices and their data; do nothing else.")
def simulate(
    count: int,
    rate: float | None,
    url: str,
    for_s: float | None,
    storm_every: float | None,
    faults: tuple[tuple[str, float], ...],
    as_json: bool,
    cleanup: bool,
) -> None:
    """Run a fleet of simulated devices over MQTT, and say what became of what they sent.

    They are devices of the type "simulated", sim-0001 and so on, in the database of the configuration, and answer
    commands. `--cleanup` deletes exactly these.
    """
    if sum(percent for _, percent in faults) > 100:
        raise click.UsageError("--faults: more than 100 percent in all")
    if not cleanup:
        address = _reachable(url)
    setup_django()
    from devices.simulation.fleet import clean_up, prepare
    from devices.simulation.simulation import Plan
    from devices.simulation.simulation import simulate as run
    from devices.simulation.tally import Tally

    if cleanup:
        echo(f"{clean_up()} simulated device(s) are deleted.", err=True)
        return
    plan = Plan(messages_per_s=rate or count, faults=dict(faults), storm_every_s=storm_every, for_s=for_s)
    devices = prepare(count)
    tally = Tally()
    began = time.monotonic()

    def show(*, err: bool = True) -> None:
        counts = {"seconds": round(time.monotonic() - began, 1), **tally.as_dict()}
        if as_json:
            echo(json.dumps(counts))
        else:
            echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items()), err=err)

    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt does it
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await run(plan, devices, address, tally, stop=stop, progress=show)

    asyncio.run(until_told())
    show(err=False)


def _reachable(url: str) -> tuple[str, int]:
    """Host and port of a URL. Raises GatewayError if nothing listens there."""
    try:
        parts = urlsplit(url)
        address = (parts.hostname or "", parts.port or 1883)
    except ValueError as error:
        raise click.UsageError(f"--url: {error}") from None
    if parts.scheme != "mqtt" or not parts.hostname:
        raise click.UsageError("--url: expected mqtt://host:port")
    try:
        socket.create_connection(address, _TCP_TIMEOUT_S).close()
    except OSError as error:
        raise GatewayError(f"nothing listens at {url}: {error}; `{program()} serve` starts a gateway") from None
    return address
