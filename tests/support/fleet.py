"""Many devices at once: `gateway device add` for each would be a process each."""

import json
import subprocess
import sys
from dataclasses import dataclass

from tests.support.serving import Serving, clean_environment

_SCRIPT = """
import json, sys
import django
django.setup()
from devices.credentials import issue
from devices.models import Device, DeviceType
from django.db import transaction
with transaction.atomic():
    kind, _ = DeviceType.objects.get_or_create(name="default")
    made = [Device.objects.create(name=name, type=kind) for name in sys.argv[1:]]
    print(json.dumps([(device.pk, device.name, issue(device)) for device in made]))
"""


@dataclass(frozen=True)
class FleetDevice:
    """A device that a gateway knows."""

    pk: int
    name: str
    token: str


def add_devices(serving: Serving, *names: str) -> list[FleetDevice]:
    """Adds devices to the database of a gateway."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *names],
        cwd=serving.directory,
        env=clean_environment(DJANGO_SETTINGS_MODULE="project.settings", **serving.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [FleetDevice(*fields) for fields in json.loads(done.stdout)]
