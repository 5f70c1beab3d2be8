"""`manage.py runserver`: the development server, on the servers that production runs on.

HTTP and WebSocket on one port, MQTT on another if asked for; reloads when code changes; static files as Django's own.
"""

import asyncio
import errno
import logging
import os
import sys
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.contrib.staticfiles.management.commands.runserver import Command as DjangoCommand
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands.runserver import Command as BaseCommand
from django.db import connections
from django.utils import autoreload
from django.utils.log import ServerFormatter

from gateway.exceptions import InvalidChannelLayerError
from gateway.lifespan import LifespanError
from gateway.middleware import HttpTimeout
from gateway.routing import get_default_application
from gateway.serve.assembly import serving
from protocols.asgi import Application
from protocols.http import HttpOptions
from protocols.mqtt.server import MqttOptions
from protocols.server import Listener
from protocols.sockets import parse_bind

MQTT_BIND = "127.0.0.1:1883"


class Command(DjangoCommand):
    """Runs ASGI_APPLICATION."""

    addr: str
    port: str

    help = "Starts a development server for HTTP, WebSocket and, with --mqtt, MQTT."

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds the options of Django's runserver, those of Daphne's that make sense, and --mqtt."""
        super().add_arguments(parser)
        parser.add_argument(
            "--noasgi", action="store_false", dest="use_asgi", help="Run Django's own server, which knows WSGI only."
        )
        parser.add_argument(
            "--mqtt",
            nargs="?",
            const=MQTT_BIND,
            type=_mqtt_bind,
            metavar="[HOST:]PORT",
            help=f"Serve MQTT too, at {MQTT_BIND} unless said otherwise.",
        )
        parser.add_argument(
            "--http_timeout",
            type=float,
            metavar="SECONDS",
            help="Time for a response to be complete; it is answered 503, or cut off. Default: none.",
        )
        parser.add_argument(
            "--websocket_handshake_timeout",
            type=float,
            default=HttpOptions().websocket_handshake_timeout_s,
            metavar="SECONDS",
            help="Time for the application to accept a WebSocket. Default: %(default)s.",
        )

    def handle(self, *args: Any, **options: Any) -> str | None:
        """Runs until stopped. CommandError when there is nothing to run."""
        if options["use_asgi"] and not getattr(settings, "ASGI_APPLICATION", None):
            raise CommandError("You have not set ASGI_APPLICATION, which is needed to run the server.")
        if options["mqtt"] and not options["use_asgi"]:
            raise CommandError("--mqtt needs ASGI: leave --noasgi out.")
        super().handle(*args, **options)
        return None

    def inner_run(self, *args: Any, **options: Any) -> None:
        """Runs the servers; called in a new process whenever code has changed."""
        if not options["use_asgi"]:
            super().inner_run(*args, **options)
            return
        autoreload.raise_last_exception()
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            # Those of the base class: this command has none for its automatic run.
            check_kwargs: dict[str, Any] = super(BaseCommand, self).get_check_kwargs(options)  # type: ignore[assignment]
            self.check(**check_kwargs, display_num_errors=True)
        self.check_migrations()
        for connection in connections.all(initialized_only=True):
            connection.close()
        _show_log()
        try:
            asyncio.run(self._serve(self._application(options), options))
        except (OSError, LifespanError, InvalidChannelLayerError) as error:
            self.stderr.write(f"Error: {_reason(error)}")
            os._exit(1)  # sys.exit does not end a process from the thread of the reloader
        except KeyboardInterrupt:
            sys.exit(0)

    def _application(self, options: dict[str, Any]) -> Application:
        application = get_default_application()
        if options["http_timeout"]:
            application = HttpTimeout(application, options["http_timeout"])
        if (
            apps.is_installed("django.contrib.staticfiles")
            and options["use_static_handler"]
            and (settings.DEBUG or options["insecure_serving"])
        ):
            application = ASGIStaticFilesHandler(application)  # type: ignore[assignment,arg-type]
        return application

    async def _serve(self, application: Application, options: dict[str, Any]) -> None:
        http = HttpOptions(
            websocket_handshake_timeout_s=options["websocket_handshake_timeout"], access_log=True, server_header=""
        )
        host = f"[{self.addr}]" if ":" in self.addr else self.addr
        listeners = {"http": [Listener(bind=f"{host}:{self.port}", options=http)]}
        if options["mqtt"]:
            listeners["mqtt"] = [Listener(bind=options["mqtt"], options=MqttOptions())]
        async with serving(application, listeners) as servers:
            self.on_bind(int(servers["http"].addresses[0].rpartition(":")[2]))
            for address in servers["mqtt"].addresses if "mqtt" in servers else ():
                self.stdout.write(f"MQTT at mqtt://{address}")
            self.stdout.flush()
            await asyncio.Event().wait()


def _mqtt_bind(value: str) -> str:
    bind = value if ":" in value else f"127.0.0.1:{value}"
    parse_bind(bind)
    return bind


def _show_log() -> None:
    """Writes the log of the servers, requests included, to standard error, unless LOGGING configures it."""
    logger = logging.getLogger("gateway")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(ServerFormatter("[{server_time}] {message}", style="{"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


def _reason(error: Exception) -> str:
    """The text of `error`, in the words of Django where it has some."""
    return {
        errno.EACCES: "You don't have permission to access that port.",
        errno.EADDRINUSE: "That port is already in use.",
        errno.EADDRNOTAVAIL: "That IP address can't be assigned to.",
    }.get(getattr(error, "errno", None) or 0, str(error))
