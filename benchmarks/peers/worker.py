"""The worker: from Mosquitto to the database and to a group of dashboards.

    python -m peers.worker MQTT-PORT create|transaction fleet|device

With `create` it stores as one would write it first: `acreate` for each value. With `transaction` a message is one
transaction and one hop to a thread, which is several times faster. The group is that of all devices, or the device's.
"""

import json
import os
import sys
import time

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "peers.settings")

import django

django.setup()

import aiomqtt  # noqa: E402
import uvloop  # noqa: E402
from asgiref.sync import sync_to_async  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from django.db import transaction  # noqa: E402

from peers.models import Reading  # noqa: E402


async def create(device, ts, values):
    for key, value in values.items():
        await Reading.objects.acreate(device=device, key=key, ts=ts, value=value)


@sync_to_async
def create_in_transaction(device, ts, values):
    with transaction.atomic():
        for key, value in values.items():
            Reading.objects.create(device=device, key=key, ts=ts, value=value)


async def work(port, storing, groups):
    store = create if storing == "create" else create_in_transaction
    layer = get_channel_layer()
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe("devices/+/telemetry", qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            device = str(message.topic).split("/")[1]
            ts = int(time.time() * 1000)
            values = json.loads(message.payload)
            await store(device, ts, values)
            text = json.dumps({"device": device, "ts": ts, "values": values})
            group = "devices" if groups == "fleet" else device
            await layer.group_send(group, {"type": "readings", "text": text})


uvloop.run(work(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
