"""The command line, `gateway`.

Results go to standard output and all else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or wrong
configuration. A distribution adds a command by an entry point in the group "gateway.commands" whose value is a click
command; a command that needs the database calls `setup_django` first.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway import config as configuration
from gateway.config import FILE_VARIABLE, ConfigError, Loaded
from gateway.exceptions import GatewayError
from gateway.serve import logs
from gateway.terminal import echo, write

if TYPE_CHECKING:
    from gateway.config.review import Finding

COMMAND_GROUP = "gateway.commands"
DEFAULT_SETTINGS = "project.settings"


@dataclass(slots=True)
class Choice:
    """The configuration as the command line gives it."""

    file: Path | None = None
    flags: tuple[str, ...] = ()

    def load(self) -> Loaded:
        """Reads the configuration and makes it that of the process, and of the processes it starts."""
        loaded = configuration.load(self.file, flags=self.flags)
        configuration.use(loaded)
        if loaded.file is not None:
            os.environ[FILE_VARIABLE] = str(loaded.file)
        return loaded


class Commands(click.Group):
    """The commands of this module and those of installed distributions, loaded when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *entry_points(group=COMMAND_GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        for entry in entry_points(group=COMMAND_GROUP, name=cmd_name):
            try:
                command: click.Command = entry.load()
            except ImportError as error:
                return _unusable(cmd_name, error)
            _configure(command)
            return command
        return None


def _configure(command: click.Command) -> None:
    """Adds `--config` and `--set` to a command of another distribution, and to those below it, that lack them."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _configure(below)
    elif not any("--config" in parameter.opts for parameter in command.params):
        configured(command)


def _unusable(name: str, error: ImportError) -> click.Command:
    """A command in place of one whose distribution is broken, so that the others can still be listed and used."""

    def fail() -> NoReturn:
        raise GatewayError(f"the command {name} cannot be loaded: {error}") from error

    return click.Command(name, callback=fail, short_help=f"(cannot be loaded: {error})")


def _set_configuration(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """`--config` and `--set` mean the same before the command and after it."""
    choice: Choice = ctx.ensure_object(Choice)
    if parameter.name == "file" and value is not None:
        choice.file = value
    elif parameter.name == "flags":
        choice.flags += value
    return value


def configured(command: Any) -> Any:
    """Adds `--config` and `--set`."""
    file = click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        callback=_set_configuration,
        expose_value=False,
        help="Configuration file. Default: $GATEWAY_CONFIG, else config/gateway.toml if there is one.",
    )
    flags = click.option(
        "--set",
        "flags",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_set_configuration,
        expose_value=False,
        help="Set one value, such as log.level=debug or listeners.0.bind=127.0.0.1:8080.",
    )
    return file(flags(command))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fieldgate", prog_name="gateway")
@configured
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A multi-protocol IoT gateway: MQTT, HTTP and WebSocket devices, live dashboards."""
    if ctx.ensure_object(Choice).file or ctx.obj.flags:
        ctx.obj.load()


def setup_django() -> Loaded:
    """Makes Django usable in a command: configuration, logging, apps.

    Raises GatewayError before the first start, and for a database that a later version has migrated.
    """
    loaded = _load()
    _start_django()
    database = loaded.config.sqlite_file()
    # Another project's settings say themselves where its database is.
    is_ours = os.environ["DJANGO_SETTINGS_MODULE"] == DEFAULT_SETTINGS
    if is_ours and database is not None and not database.exists():
        raise GatewayError(f"there is no database at {database}; `{program()} serve` creates it on its first start")
    if is_ours:
        from gateway.databases.migrations import later_migrations, refusal

        if later := later_migrations():
            raise GatewayError(refusal(later))
    return loaded


def _load() -> Loaded:
    context = click.get_current_context(silent=True)
    choice = context.ensure_object(Choice) if context else Choice()
    loaded = choice.load()
    logs.configure(loaded.config.log)
    return loaded


def _start_django() -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", DEFAULT_SETTINGS)
    django.setup()


@cli.command()
@configured
def serve() -> None:
    """Run the gateway until it is told to stop (SIGTERM, Ctrl-C)."""
    loaded = _load()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", DEFAULT_SETTINGS)
    from gateway.serve import supervisor

    supervisor.serve(loaded, program=program())


def program() -> str:
    """How to call another command so that it works on the same data, for hints: this command's program and options."""
    context = click.get_current_context(silent=True)
    choice = context.ensure_object(Choice) if context else Choice()
    file = choice.file or configuration.find_file(os.environ)
    words = [sys.argv[0]]
    if file is not None and file != configuration.DEFAULT_FILE:
        words += ["--config", str(file)]
    for flag in choice.flags:
        if flag.startswith(("data_dir=", "database.")):
            words += ["--set", flag]
    return shlex.join(words)


@cli.command()
@configured
@click.pass_context
def check(ctx: click.Context) -> None:
    """Say whether the configuration is valid, and what in it is risky. Changes nothing."""
    from gateway.config.review import review

    loaded = ctx.ensure_object(Choice).load()
    findings = [*review(loaded), *_review_database(loaded)]
    for finding in findings:
        echo(finding)
    errors = sum(finding.level == "error" for finding in findings)
    warnings = len(findings) - errors
    echo(f"{loaded.file or 'defaults'}: {errors} error(s), {warnings} warning(s)")
    ctx.exit(1 if errors else 0)


def _review_database(loaded: Loaded) -> "Iterator[Finding]":
    """Findings about the database itself, if it exists; there are none with another project's settings."""
    from gateway.config.review import Finding

    file = loaded.config.sqlite_file()
    if os.environ.get("DJANGO_SETTINGS_MODULE", DEFAULT_SETTINGS) != DEFAULT_SETTINGS or not (
        file is None or file.exists()
    ):
        return
    _start_django()
    from django.db import Error, connections

    from gateway.databases.migrations import later_migrations
    from gateway.db import describe_failure

    try:
        later = later_migrations()
    except Error as error:
        yield Finding("warning", "operation", "database.url", describe_failure(error), "see that it can be used")
    else:
        if later:
            yield Finding(
                "error",
                "operation",
                "database.url",
                f"a later version has migrated the database: {', '.join(later)} is not known here",
                "run that version, or restore a backup from before",
            )
    finally:
        connections.close_all()


@cli.group(name="config")
def config_group() -> None:
    """See the configuration."""


@config_group.command(name="print")
@click.option("--effective", is_flag=True, help="Also what was not written: every default.")
@configured
@click.pass_context
def print_config(ctx: click.Context, effective: bool) -> None:
    """Print the configuration as TOML, with the origin of each value and without secrets."""
    from gateway.config.show import render

    loaded = ctx.ensure_object(Choice).load()
    write(render(loaded.config, loaded.origins, effective=effective))


@cli.command()
@click.argument("channels", nargs=-1, required=True)
@click.option("--layer", "layer_alias", default="default", show_default=True, help="Alias in CHANNEL_LAYERS.")
@configured
def worker(channels: tuple[str, ...], layer_alias: str) -> None:
    """Run the consumers of channel CHANNELS, without listening to anything."""
    setup_django()
    from django.core.management import CommandError, call_command

    try:
        call_command("runworker", *channels, layer=layer_alias)
    except CommandError as error:
        raise GatewayError(str(error)) from None


@cli.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def manage(arguments: tuple[str, ...]) -> None:
    """Run one of Django's management commands: migrate, changepassword, shell, ..."""
    _load()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", DEFAULT_SETTINGS)
    from django.core.management import execute_from_command_line

    execute_from_command_line([f"{Path(sys.argv[0]).name} manage", *arguments])


def main() -> NoReturn:
    """The console script."""
    if "DJANGO_SETTINGS_MODULE" in os.environ:  # of a project in the working directory, as with `manage.py`
        sys.path.insert(0, str(Path.cwd()))
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default that of the process; the exit code.

    An error of the configuration, or of something that a command needs, becomes one line on standard error. Any other
    exception is a fault of the program, and raised.
    """
    try:
        cli.main(arguments, prog_name="gateway", standalone_mode=True)
    except ConfigError as error:
        write(str(error), err=True)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        echo(f"gateway: {reason}", err=True)
        return 1


def _reason(error: Exception) -> str | None:
    """Why a command could not be carried out; None for a fault of the program."""
    if isinstance(error, GatewayError):
        return str(error)
    if isinstance(error, OSError):
        said = (error.strerror or str(error)).lower()
        return said if error.filename is None else f"{error.filename}: {said}"
    if "django.db" in sys.modules:  # or it has not raised anything
        from django.db import Error

        from gateway.db import describe_failure

        if isinstance(error, Error):
            return f"the database cannot be used: {describe_failure(error)}"
    return None
