"""MQTT from a browser: over WebSocket at /mqtt, by a page's own script and by MQTT.js."""

from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.e2e.conftest import Pages, Site
from tests.e2e.test_first_message import value_of

# What a page needs for a reading over MQTT 3.1.1: four packets.
OWN_SCRIPT = """
async ({ url, token, telemetry }) => {
  const text = (value) => {
    const bytes = new TextEncoder().encode(value);
    return [bytes.length >> 8, bytes.length & 255, ...bytes];
  };
  const packet = (type, body) => Uint8Array.from([type, body.length, ...body]);
  const socket = new WebSocket(url, "mqtt");
  socket.binaryType = "arraybuffer";
  const received = [];
  const bytes = (count) => new Promise((resolve, reject) => {
    const look = () => received.length >= count && resolve(received.splice(0, count));
    socket.onmessage = (event) => { received.push(...new Uint8Array(event.data)); look(); };
    socket.onclose = (event) => reject(new Error(`closed: ${event.code}`));
    look();
  });
  await new Promise((resolve, reject) => { socket.onopen = resolve; socket.onerror = reject; });
  socket.send(packet(0x10, [...text("MQTT"), 4, 0x82, 0, 60, ...text("browser"), ...text(token)]));
  const connack = await bytes(4);
  socket.send(packet(0x82, [0, 1, ...text("v1/devices/me/rpc/request/+"), 1]));
  const suback = await bytes(5);
  socket.send(packet(0x32, [...text("v1/devices/me/telemetry"), 0, 2, ...new TextEncoder().encode(telemetry)]));
  const puback = await bytes(4);
  socket.send(packet(0xe0, []));
  return { protocol: socket.protocol, connack, suback, puback };
}
"""

MQTT_JS = """
async ({ url, token, telemetry }) => {
  const client = await mqtt.connectAsync(url, { username: token, protocolVersion: 5, connectTimeout: 60_000 });
  await client.subscribeAsync("v1/devices/me/rpc/request/+", { qos: 1 });
  const packet = await client.publishAsync("v1/devices/me/telemetry", telemetry, { qos: 1 });
  await client.endAsync();
  return packet.cmd;
}
"""


def arguments(site: Site, token: str, value: float) -> dict[str, Any]:
    return {"url": site.url.replace("http", "ws", 1) + "/mqtt", "token": token, "telemetry": f'{{"level": {value}}}'}


def test_a_page_of_the_gateway_is_a_device_under_its_own_security_policy(site: Site, pages: Pages) -> None:
    token = site.add_device("browser")
    page = pages.open("/")
    expect(page.locator("#live-state")).to_have_text("Updates: live")

    answers = page.evaluate(OWN_SCRIPT, arguments(site, token, 21.5))

    assert answers == {
        "protocol": "mqtt",
        "connack": [0x20, 2, 0, 0],
        "suback": [0x90, 3, 0, 1, 1],
        "puback": [0x40, 2, 0, 2],
    }
    expect(value_of(page, "browser", "level")).to_have_text("21.5", timeout=30_000)


def test_mqtt_js_in_a_browser_is_a_device(site: Site, pages: Pages, mqtt_js: Path) -> None:
    token = site.add_device("mqtt-js")
    dashboard = pages.open("/")
    elsewhere = pages.open("/healthz")  # where no policy forbids scripts from elsewhere
    elsewhere.add_script_tag(path=mqtt_js / "dist" / "mqtt.min.js")

    assert elsewhere.evaluate(MQTT_JS, arguments(site, token, 22.5)) == "publish"

    expect(value_of(dashboard, "mqtt-js", "level")).to_have_text("22.5", timeout=30_000)
