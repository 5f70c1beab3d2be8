"""A channel layer that cannot be used is an error when a server or a worker starts, not with the first message."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.lifespan import LifespanApplication
from gateway.routing import ProtocolTypeRouter
from tests.support.django_project import write_files
from tests.support.ports import free_port
from tests.support.redis import RedisServer
from tests.support.serving import GATEWAY, clean_environment

SETTINGS = """
import json, os
SECRET_KEY = "only for a test"
DEBUG = True
INSTALLED_APPS = ["gateway"]
ASGI_APPLICATION = "site_asgi.application"
CHANNEL_LAYERS = {"default": json.loads(os.environ["LAYER"])}
"""
ASGI = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_settings")
from django.core.asgi import get_asgi_application
from gateway.routing import ProtocolTypeRouter
application = ProtocolTypeRouter({"http": get_asgi_application()})
"""
MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
COMMANDS = {
    "runserver": [sys.executable, "manage.py", "runserver", "127.0.0.1:0", "--noreload"],
    "runserver without checks": [
        sys.executable,
        "manage.py",
        "runserver",
        "127.0.0.1:0",
        "--noreload",
        "--skip-checks",
    ],
    "runworker": [sys.executable, "manage.py", "runworker", "jobs"],
    "serve": [str(GATEWAY), "serve"],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_files(tmp_path, {"site_settings.py": SETTINGS, "site_asgi.py": ASGI, "manage.py": MANAGE})
    return tmp_path


def started(project: Path, command: str, layer: str) -> tuple[int, str]:
    """The exit code, and what was written, of a command that does not start."""
    environ = clean_environment(DJANGO_SETTINGS_MODULE="site_settings", LAYER=layer)
    done = subprocess.run(
        COMMANDS[command], cwd=project, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_no_server_or_worker_starts_without_its_redis(project: Path, command: str) -> None:
    layer = '{"BACKEND": "gateway.layers.redis.RedisChannelLayer", "CONFIG": {"hosts": ["redis://127.0.0.1:1"]}}'

    code, output = started(project, command, layer)

    assert code != 0
    assert "Redis at redis://127.0.0.1:1 is not available" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("command", COMMANDS)
def test_no_server_or_worker_starts_with_the_layer_of_channels(project: Path, command: str) -> None:
    code, output = started(project, command, '{"BACKEND": "channels_redis.core.RedisChannelLayer"}')

    assert code != 0
    assert "here it is 'gateway.layers.redis.RedisChannelLayer'" in output
    assert "Traceback" not in output


async def answer_to_startup(application: Any) -> dict[str, Any]:
    """What any ASGI server is told when it starts `application`."""
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}}  # as of servers that keep no state
    running = asyncio.create_task(application(scope, events.get, answers.put))
    events.put_nowait({"type": "lifespan.startup"})
    answer = await asyncio.wait_for(answers.get(), 60)
    events.put_nowait({"type": "lifespan.shutdown"})
    await asyncio.wait_for(running, 60)
    return answer


class TestUnderAnyAsgiServer:
    async def test_a_router_without_a_lifespan_application_answers_for_the_layers(
        self, settings: Any, redis_server: RedisServer
    ) -> None:
        backend = "gateway.layers.pubsub.RedisPubSubChannelLayer"
        router = ProtocolTypeRouter({})
        settings.CHANNEL_LAYERS = {}
        assert await answer_to_startup(router) == {"type": "lifespan.startup.complete"}

        settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [redis_server.url]}}}
        assert await answer_to_startup(router) == {"type": "lifespan.startup.complete"}

        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": "gateway.layers.InMemoryChannelLayer"},
            "other": {"BACKEND": backend, "CONFIG": {"hosts": [("127.0.0.1", free_port())]}},
        }
        answer = await answer_to_startup(router)
        assert answer["type"] == "lifespan.startup.failed"
        assert "cannot use the channel layer 'other': Redis at 127.0.0.1:" in answer["message"]

    async def test_a_lifespan_application_answers_for_the_layers_too(self, settings: Any) -> None:
        def never(state: dict[str, Any]) -> Any:
            raise AssertionError("started")

        settings.CHANNEL_LAYERS = {"default": {"BACKEND": "nowhere.Layer"}}

        answer = await answer_to_startup(ProtocolTypeRouter({"lifespan": LifespanApplication(never)}))

        assert "Cannot import BACKEND 'nowhere.Layer'" in answer["message"]
