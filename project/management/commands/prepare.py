"""`prepare`: what must be true of the database before the gateway starts."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Brings the database up to date. `gateway serve` runs it on every start."""

    help = "Creates or updates the database's tables."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=options["verbosity"])
