"""A live server for tests with a real browser or client: HTTP and WebSocket, from a thread of the test process."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asgiref.sync import async_to_sync
from django.apps import apps
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TransactionTestCase, modify_settings
from django.utils.functional import classproperty

from gateway.routing import get_default_application
from gateway.serve.assembly import serving
from protocols.asgi import Application
from protocols.http import HttpOptions
from protocols.server import Listener

START_TIMEOUT_S = 30.0


class LiveServer(threading.Thread):
    """Serves an application until `stop`, in an event loop of its own.

    `shared` are the connections to databases in memory that the test and the application use in common. With them all
    synchronous code of the application runs in this one thread, one call after the other.
    """

    def __init__(
        self, make_application: Callable[[], Application], bind: str, shared: Mapping[str, BaseDatabaseWrapper]
    ) -> None:
        super().__init__(name="live-server", daemon=True)
        self.port = 0
        self.error: BaseException | None = None
        self._make_application = make_application
        self._bind = bind
        self._shared = shared
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def run(self) -> None:
        """The body of the thread."""
        for alias, connection in self._shared.items():
            connections[alias] = connection
        try:
            if self._shared:
                async_to_sync(self._serve)()  # gives the loop this thread for synchronous code
            else:
                asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._is_up.set()
            for connection in connections.all(initialized_only=True):
                if connection.alias not in self._shared:
                    connection.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        listener = Listener(bind=self._bind, options=HttpOptions())
        async with serving(self._make_application(), {"http": [listener]}) as servers:
            self.port = int(servers["http"].addresses[0].rpartition(":")[2])
            self._is_up.set()
            await self._stopping.wait()

    def start_and_wait(self) -> None:
        """Returns when it serves. Raises what kept it from that."""
        self.start()
        if not self._is_up.wait(START_TIMEOUT_S):
            raise TimeoutError(f"the live server did not start within {START_TIMEOUT_S:g} s")
        if self.error is not None:
            self.join()
            raise self.error

    def stop(self) -> None:
        """Ends the connections, then the application's lifespan, then the thread."""
        if self._loop is not None and self._stopping is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self.join()


class ChannelsLiveServerTestCase(TransactionTestCase):
    """Runs ASGI_APPLICATION on a real port while the tests of the class run.

    As Django's LiveServerTestCase it is served from a thread, so databases in memory work, settings that a test
    overrides count, and what the test sends over an in-memory channel layer reaches the application.
    """

    host: ClassVar[str] = "localhost"
    port: ClassVar[int] = 0
    """0: any free one."""

    ProtocolServerProcess: ClassVar[type[LiveServer]] = LiveServer
    """What serves; the name is that of Channels, where it is a process."""

    static_wrapper: ClassVar[Callable[[Any], Any]] = ASGIStaticFilesHandler
    serve_static: ClassVar[bool] = True
    """Whether the files of installed apps are served, without DEBUG and collectstatic."""

    server: ClassVar[LiveServer]

    @classproperty
    def live_server_url(cls) -> str:  # noqa: N805
        """ "http://localhost:PORT"."""
        return f"http://{cls.host}:{cls.server.port}"

    @classproperty
    def live_server_ws_url(cls) -> str:  # noqa: N805
        """ "ws://localhost:PORT"."""
        return f"ws://{cls.host}:{cls.server.port}"

    @classmethod
    def get_application(cls) -> Application:
        """What is served, but for static files; may be overridden."""
        return get_default_application()

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(modify_settings(ALLOWED_HOSTS={"append": cls.host}))
        shared = {
            connection.alias: connection
            for connection in connections.all()
            if connection.vendor == "sqlite" and connection.is_in_memory_db()  # type: ignore[attr-defined]
        }
        for connection in shared.values():
            connection.inc_thread_sharing()
            cls.addClassCleanup(connection.dec_thread_sharing)
        # A browser tries both families for "localhost"; a listener has one address.
        address = "127.0.0.1" if cls.host == "localhost" else cls.host
        bind = f"[{address}]:{cls.port}" if ":" in address else f"{address}:{cls.port}"
        cls.server = cls.ProtocolServerProcess(cls.__application, bind, shared)
        cls.addClassCleanup(cls.server.stop)
        cls.server.start_and_wait()

    @classmethod
    def __application(cls) -> Application:
        application = cls.get_application()
        if cls.serve_static and apps.is_installed("django.contrib.staticfiles"):
            application = cls.static_wrapper(application)
        return application
