"""A device as ThingsBoard's SDK has firmware authors write it: `thingsboard_device.py PORT TOKEN WHAT [ARGUMENT]`.

It prints what it gets, a JSON value a line. Run with the SDK on PYTHONPATH, unmodified.
"""

import json
import os
import sys
import threading
from typing import Any

from tb_device_mqtt import TBDeviceMqttClient, TBPublishInfo  # type: ignore[import-not-found]
from tb_gateway_mqtt import TBGatewayMqttClient  # type: ignore[import-not-found]

TIMEOUT_S = 60


ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the SDK prints, and programs that it starts, is no answer


def say(value: Any) -> None:
    ANSWERS.write(f"{json.dumps(value)}\n")  # at once: the SDK's threads say something, too
    ANSWERS.flush()


class Device:
    """The device, and what it is asked to show."""

    kind = TBDeviceMqttClient

    def __init__(self, port: int, token: str) -> None:
        self.client = self.kind("127.0.0.1", port, username=token)
        # Without a callback: the SDK notes it after it has begun to connect, and a fast server is faster. When it has
        # the limits of its session, which it asks for by itself, it is connected.
        self.client.connect()
        for _ in range(10 * TIMEOUT_S):
            if self.client.rate_limits_received:
                break
            threading.Event().wait(0.1)
        else:
            raise TimeoutError("the SDK has not received the limits of its session")

    def report(self) -> None:
        """Telemetry and client attributes."""
        for sent in (
            self.client.send_telemetry({"temperature": 21.5, "open": False}),
            self.client.send_telemetry({"ts": 1_700_000_000_000, "values": {"temperature": 20}}),
            self.client.send_attributes({"firmware": "1.0.3"}),
        ):
            say(sent.get() == TBPublishInfo.TB_ERR_SUCCESS)

    def limits(self) -> None:
        """The limits of the session, which it asks for by itself."""
        say([self.client.rate_limits_received, self.client.max_payload_size])

    def request(self) -> None:
        """Attributes that it asks for."""
        answered = threading.Event()

        def show(content: Any, error: Any) -> None:
            say([content, error])
            answered.set()

        self.client.request_attributes(["firmware"], ["interval"], callback=show)
        assert answered.wait(TIMEOUT_S)

    def provision(self, port: str, key: str, secret: str) -> None:
        """Gets a credential for another device."""
        say(TBDeviceMqttClient.provision("127.0.0.1", key, secret, port=int(port), device_name="by the SDK"))

    def watch(self, number: str) -> None:
        """So many changes of shared attributes."""
        left = threading.Semaphore(0)

        def show(content: Any, error: Any) -> None:
            say(content)
            left.release()

        self.client.subscribe_to_all_attributes(show)
        say("watching")
        for _ in range(int(number)):
            assert left.acquire(timeout=TIMEOUT_S)

    def obey(self, number: str) -> None:
        """So many commands, each answered with what it says."""
        left = threading.Semaphore(0)

        def answer(request_id: str, content: Any) -> None:
            say(content)
            self.client.send_rpc_reply(request_id, {"echo": content["params"]}, wait_for_publish=True)
            left.release()

        self.client.set_server_side_rpc_request_handler(answer)
        say("obeying")
        for _ in range(int(number)):
            assert left.acquire(timeout=TIMEOUT_S)

    def call(self, method: str) -> None:
        """What the server answers to a call."""
        answered = threading.Event()

        def show(_: int, content: Any, error: Any) -> None:
            say(content)
            answered.set()

        self.client.send_rpc_call(method, {}, show)
        assert answered.wait(TIMEOUT_S)


class Speaker(Device):
    """A gateway, and what it says for the device behind it."""

    kind = TBGatewayMqttClient

    def speak_for(self, name: str) -> None:
        """It comes, reports telemetry and attributes, asks for one, and goes."""
        answered = threading.Event()

        def show(content: Any, error: Any) -> None:
            say([content, error])
            answered.set()

        for sent in (
            self.client.gw_connect_device(name, "default"),
            self.client.gw_send_telemetry(name, [{"ts": 1_700_000_000_000, "values": {"temperature": 20}}]),
            self.client.gw_send_attributes(name, {"firmware": "1.0.3"}),
        ):
            say(sent.get() == TBPublishInfo.TB_ERR_SUCCESS)
        self.client.gw_request_client_attributes(name, ["firmware"], show)
        assert answered.wait(TIMEOUT_S)
        say(self.client.gw_disconnect_device(name).get() == TBPublishInfo.TB_ERR_SUCCESS)


if __name__ == "__main__":
    port, token, what, *arguments = sys.argv[1:]
    device = (Speaker if hasattr(Speaker, what) and not hasattr(Device, what) else Device)(int(port), token)
    getattr(device, what)(*arguments)
    device.client.disconnect()
