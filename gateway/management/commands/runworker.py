"""`manage.py runworker CHANNEL...`: handles what is sent to named channels, in this process."""

from argparse import ArgumentParser
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import DEFAULT_CHANNEL_LAYER, InMemoryChannelLayer, LayerUnavailableError, get_channel_layer
from gateway.routing import get_default_application
from gateway.worker import Worker


class Command(BaseCommand):
    """Runs a worker until a signal stops it."""

    worker_class: ClassVar[type[Worker]] = Worker
    """For commands that derive from this one."""

    help = "Runs a worker process that handles the messages of the given channels."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the channels, and the layer that they are in."""
        parser.add_argument(
            "--layer", default=DEFAULT_CHANNEL_LAYER, help="Channel layer alias to use, if not the default."
        )
        parser.add_argument("channels", nargs="+", help="Channels to listen on.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Returns when the worker was stopped. Raises CommandError when there is no such layer or it cannot be used."""
        try:
            layer = get_channel_layer(options["layer"])
            if layer is None:
                raise CommandError("You do not have any CHANNEL_LAYERS configured.")
            if isinstance(layer, InMemoryChannelLayer):
                raise CommandError(
                    "A worker needs a layer that several processes share: what others send never reaches the layer in "
                    "the memory of this process. Set layer.url (CHANNEL_LAYERS) to a Redis."
                )
            self.worker_class(
                application=get_default_application(), channels=options["channels"], channel_layer=layer
            ).run()
        except (InvalidChannelLayerError, LayerUnavailableError) as error:
            raise CommandError(str(error)) from error
