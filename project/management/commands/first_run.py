"""`first_run`: the first administrator, and what to do next, printed once."""

import secrets
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandParser
from django.db import IntegrityError, transaction

from gateway.serve.supervisor import local_url

USERNAME = "admin"


class Command(BaseCommand):
    """Creates the first administrator with a random password, if there is no user yet.

    Printed once, on standard output; `gateway serve` runs it when the ports are open, so that what it prints works.
    """

    help = "Creates the first administrator if there is no user yet, and prints the password and the first steps."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--addresses", nargs="*", default=[], help="what the gateway listens at, as URLs")
        parser.add_argument("--program", default="gateway", help="how the command line is called")

    def handle(self, *args: Any, **options: Any) -> None:
        password = create_first_administrator()
        if password is not None:
            self.stdout.write(first_steps(options["addresses"], options["program"], password))
            self.stdout.flush()


def create_first_administrator() -> str | None:
    """The password of the administrator just created; None if there was a user already."""
    users = get_user_model().objects
    password = secrets.token_urlsafe(12)
    try:
        with transaction.atomic():
            if users.exists():
                return None
            users.create_superuser(USERNAME, password=password)
    except IntegrityError:  # another gateway on the same database was quicker
        return None
    return password


def first_steps(addresses: list[str], program: str, password: str) -> str:
    """The text for whoever started a gateway for the first time."""
    http = local_url(addresses, ("http", "https"))
    mqtt = local_url(addresses, ("mqtt", "mqtts"))
    dashboard = settings.CSRF_TRUSTED_ORIGINS[0] if settings.CSRF_TRUSTED_ORIGINS else http
    lines = [
        "The gateway is running for the first time.",
        "",
        f"    dashboard   {dashboard}/",
        f"    user        {USERNAME}",
        f"    password    {password}",
        "",
        f"The password is not shown again; `{program} manage changepassword {USERNAME}` sets another.",
        "",
        "To send a first message, in another terminal:",
        "",
        f"    TOKEN=$({program} device add thermo-1)",
    ]
    if mqtt:
        port = urlsplit(mqtt).port
        host = urlsplit(mqtt).hostname
        lines.append(
            f"    mosquitto_pub -h {host} -p {port} -u $TOKEN"
            """ -t v1/devices/me/telemetry -q 1 -m '{"temperature": 21.5}'"""
        )
    if http:
        lines.append(f"""    curl -d '{{"temperature": 22}}' {http}/api/v1/$TOKEN/telemetry""")
    return "\n".join([*lines, ""])
