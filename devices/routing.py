"""The product's ASGI routes: devices on every wire, and browsers on their live streams."""

from django.urls import path, re_path

from devices.consumers.bridge import BridgeMqttConsumer
from devices.consumers.http import DeviceHttpConsumer
from devices.consumers.mqtt import DeviceMqttConsumer
from devices.consumers.provisioning import (
    ProvisioningHttpConsumer,
    ProvisioningMqttConsumer,
    asks_to_be_provisioned,
)
from devices.consumers.websocket import DeviceWebsocketConsumer
from devices.dashboard.live import live_http_routes, live_websocket_routes
from protocols.asgi import Receive, Scope, Send

http_routes = [
    path("api/v1/provision", ProvisioningHttpConsumer.as_asgi()),
    re_path(r"^api/v1/(?P<path>.*)", DeviceHttpConsumer.as_asgi()),
    *live_http_routes,
]
websocket_routes = [
    path("ws/device/", DeviceWebsocketConsumer.as_asgi()),
    *live_websocket_routes,
]
_device_application = DeviceMqttConsumer.as_asgi()
_bridge_application = BridgeMqttConsumer.as_asgi()
_provisioning_application = ProvisioningMqttConsumer.as_asgi()


async def mqtt_application(scope: Scope, receive: Receive, send: Send) -> None:
    """A device, one that asks for a credential, a client of the broker, or a bridge to another one."""
    if "bridge" in scope["extensions"]:
        application = _bridge_application
    elif asks_to_be_provisioned(scope):
        application = _provisioning_application
    else:
        application = _device_application
    await application(scope, receive, send)
