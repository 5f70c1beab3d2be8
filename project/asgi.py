"""The application: for each kind of connection, what serves it.

`gateway serve` runs it; for HTTP and WebSocket alone, any ASGI server could.
"""

import os

from gateway.dispatch.django_handler import get_django_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
django_application = get_django_application()  # sets Django up, which the imports below need

from django.urls import path, re_path  # noqa: E402

from devices.routing import http_routes, mqtt_application, websocket_routes  # noqa: E402
from devices.services import connections_are_watched, device_services, readings_are_committed  # noqa: E402
from gateway.health import DatabaseAnswers, Health, Metrics, Readiness, layers_answer  # noqa: E402
from gateway.lifespan import LifespanApplication  # noqa: E402
from gateway.routing import ProtocolTypeRouter, URLRouter, installed_applications  # noqa: E402
from project.missing import refuse_websocket  # noqa: E402
from project.static import StaticFiles  # noqa: E402

readiness = Readiness(
    {"database": DatabaseAnswers(), "readings": readings_are_committed, "connections": connections_are_watched},
    watched={"layer": layers_answer},
)

application = ProtocolTypeRouter(
    {
        **installed_applications(),
        "lifespan": LifespanApplication(device_services),
        "http": URLRouter(
            [
                path("metrics", Metrics()),
                path("healthz", Health()),
                path("readyz", readiness),
                re_path(r"^static/", StaticFiles()),
                *http_routes,
                re_path(r"", django_application),
            ]
        ),
        "websocket": URLRouter([*websocket_routes, re_path(r"", refuse_websocket)]),
        "mqtt": mqtt_application,
    }
)
