"""What can be configured of a bridge, and what is refused."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigError, load
from gateway.config.show import render
from protocols.bridge.options import BridgeOptions
from protocols.bridge.topic_map import ReceiveRule, SendRule

MQTT = '[[listeners]]\nprotocol = "mqtt"\nbind = "127.0.0.1:0"\n'
BRIDGE = '[[listeners]]\nprotocol = "mqtt-bridge"\nurl = "mqtts://broker.example.org"\n'
RECEIVE = '[[listeners.receive]]\nupstream = "site/{device}/telemetry"\nlocal = "v1/devices/{device}/telemetry"\n'


def read(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    return load(file, environ={})


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


def made(**given: Any) -> BridgeOptions:
    return BridgeOptions(**{"url": "mqtt://broker", "receive": (ReceiveRule(upstream="a"),), **given})


def test_a_bridge_is_a_section_with_a_url_in_the_place_of_bind(tmp_path: Path) -> None:
    send = '[[listeners.send]]\nlocal = "out/#"\nqos = 0\n'

    loaded = read(tmp_path, MQTT + BRIDGE + RECEIVE + RECEIVE.replace("telemetry", "other") + send)

    _, bridge = loaded.config.listeners
    assert (bridge.protocol, bridge.bind, bridge.tls) == ("mqtt-bridge", None, None)
    options = bridge.options
    assert options.address == ("broker.example.org", 8883, True)
    assert [rule.upstream for rule in options.receive] == ["site/{device}/telemetry", "site/{device}/other"]
    assert options.send == (SendRule(local="out/#", qos=0),)


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    loaded = read(tmp_path, MQTT + BRIDGE + RECEIVE)

    printed = render(loaded.config, loaded.origins, effective=True)

    assert read(tmp_path, printed).config == loaded.config


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (BRIDGE, "gateway.toml:1: listeners.0: there is neither a receive nor a send table: nothing would pass"),
        (
            BRIDGE + 'bind = "127.0.0.1:1"\n' + RECEIVE,
            "gateway.toml:4: listeners.0.bind: mqtt-bridge does not listen, it connects",
        ),
        (
            BRIDGE + RECEIVE + '[listeners.tls]\ncertfile = "a"\n',
            "gateway.toml:7: listeners.0.tls: mqtt-bridge does not listen, it connects",
        ),
        (
            BRIDGE.replace("mqtts:", "http:") + RECEIVE,
            'gateway.toml:3: listeners.0.url: expected "mqtt://host:port" or "mqtts://host:port"',
        ),
        (
            BRIDGE.replace("broker", "me:secret@broker") + RECEIVE,
            "gateway.toml:3: listeners.0.url: who the gateway is goes into username, and password_file or password_env",
        ),
        (
            BRIDGE + 'password = "secret"\n' + RECEIVE,
            'gateway.toml:4: unknown key "listeners.0.password"; did you mean "password_env"?',
        ),
        (
            BRIDGE + RECEIVE.replace("{device}", "+", 1),
            "gateway.toml:5: listeners.0.receive.0.upstream:"  # noqa: ISC004
            " a level that may be anything has a name here, as in {device}, instead of +",
        ),
        (
            BRIDGE + RECEIVE.replace("{device}", "{name}", 1),
            "gateway.toml:4: listeners.0.receive.0:"  # noqa: ISC004
            " the two topics name different placeholders: ['name'] and ['device']",
        ),
        (
            BRIDGE + RECEIVE + "qos = 2\n",
            "gateway.toml:7: listeners.0.receive.0.qos: expected one of 0, 1, got the number 2",
        ),
        (
            BRIDGE + 'receive = "site/#"\n',
            "gateway.toml:4: listeners.0.receive: expected tables, each headed [[listeners.receive]]",
        ),
    ],
)
def test_a_fault_has_its_line_and_key(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text) == [fault]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"password_file": Path("a"), "password_env": "B"}, "both set"),
        ({"keyfile": Path("a")}, "keyfile without certfile"),
        ({"ca_file": Path("a")}, "mqtts:// only"),
        ({"reconnect_min_s": 2.0, "reconnect_max_s": 1.0}, "more than reconnect_max_s"),
        (
            {"mqtt_version": "3.1.1", "send": (SendRule(local="x/#", upstream="#"),)},
            "what is sent as # would come back by a",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        made(**given)


def test_the_password_is_read_from_its_file_or_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("from a file\n")
    monkeypatch.setenv("UPSTREAM_PASSWORD", "from the environment")

    assert made().password() is None
    assert made(password_file=file).password() == "from a file"
    assert made(password_env="UPSTREAM_PASSWORD").password() == "from the environment"
    with pytest.raises(KeyError, match="ABSENT"):
        made(password_env="ABSENT").password()


def test_upstream_is_asked_for_its_certificate() -> None:
    context = made(url="mqtts://broker").tls_context()

    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert made().tls_context() is None


def test_a_share_is_in_front_of_each_filter() -> None:
    options = made(receive=(ReceiveRule(upstream="a/{x}/#", qos=0),), share="fleet")

    assert options.filters == {"$share/fleet/a/+/#": 0}
