"""Runs every command of the command line, one after the other, and writes what each gave as a line of JSON.

    python -m tests.support.all_commands NAME [OPTION...]

NAME is given for every name and text that a command asks for, the first of several choices, the options to each
command. Commands are found, not listed: one that a distribution adds is run, too. What runs until it is stopped is left
out: RUN_ON.
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterator

import click

from gateway.cli import cli, run

RUN_ON = {("serve",)}
NEEDED = {
    ("device", "trust"): ["--cn", "sensor-7"],
    ("device-type", "provisioning"): ["--strategy", "off"],
    ("manage",): ["migrate"],
    ("mqtt", "forget"): ["--owner", "device/7"],
    ("simulate",): ["--cleanup"],
    ("worker",): ["--layer", "default"],
}
"""What a command needs beside its arguments."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def _text(parameter: click.Argument, name: str) -> str:
    """What is given for an argument."""
    if isinstance(parameter.type, click.Choice):
        return str(parameter.type.choices[0])
    return "00000000-0000-0000-0000-000000000000" if parameter.type is click.UUID else name


def main(name: str, *options: str) -> None:
    for path, command in sorted(commands(cli)):
        if path in RUN_ON:
            continue
        texts = [_text(parameter, name) for parameter in command.params if isinstance(parameter, click.Argument)]
        given = NEEDED[path] if path == ("manage",) else [*NEEDED.get(path, []), "--", *texts]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = run([*options, *path, *given])
            except Exception as error:
                code = f"raised {error!r}"
        answer = {"command": path, "code": code, "out": out.getvalue(), "err": err.getvalue()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
