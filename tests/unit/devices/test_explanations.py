"""What `gateway explain` says: whose it is, what was refused, what that means, and what to do."""

from pathlib import Path

import pytest
from django.utils import timezone

from devices.credentials import issue, rotate, set_enabled
from devices.explanations import EXPLANATIONS, explain
from devices.models import Device, RecordedRefusal
from devices.refusals import LoginRefusal, MessageRefusal, ProvisioningRefusal, RefusalKind
from tests.unit.devices.conftest import MakeStoredDevice

AT_MS = 1_700_000_000_000
UNKNOWN_TOKEN = "NobodyHasThisTokenZ9aq"


@pytest.fixture
def device(sqlite_database: Path, new_device: MakeStoredDevice) -> Device:
    return new_device("thermo-1")


def refuse(device: Device | None, kind: RefusalKind = MessageRefusal.PAYLOAD, **other: object) -> None:
    facts: dict[str, object] = {
        "wire": "mqtt",
        "address": "192.0.2.1",
        "what": "publish v1/devices/me/telemetry",
        "code": kind.reason_code,
        "reason": "why it was",
        "claimed": "thermo-1",
        "at_ms": AT_MS,
    }
    RecordedRefusal.objects.create(device=device, kind=kind.reason, **(facts | other))


@pytest.mark.parametrize("kind", [*LoginRefusal, *MessageRefusal])
def test_every_refusal_of_the_tables_is_explained(device: Device, kind: RefusalKind) -> None:
    refuse(device, kind)

    text = "\n".join(explain("thermo-1"))

    assert f"It means: {EXPLANATIONS[kind.reason].meaning}" in text
    assert f"What to do: {EXPLANATIONS[kind.reason].advice}" in text


def test_what_is_asked_for_beside_logins_and_messages_is_explained() -> None:
    assert set(EXPLANATIONS) - {kind.reason for kind in (*LoginRefusal, *MessageRefusal, *ProvisioningRefusal)} == {
        "publish",
        "subscribe",
        "will",
    }


def test_an_explanation_of_a_device_says_its_state_and_the_newest_of_each_kind(device: Device) -> None:
    token = issue(device)
    refuse(device, reason="first")
    refuse(device, reason="second", at_ms=AT_MS + 60_000, sample=b'{"a" 1}', fault=5)
    refuse(device, MessageRefusal.IGNORED, what="publish x", reason="not in the device API")

    lines = list(explain("thermo-1"))

    assert lines[:3] == [
        "thermo-1 is a device of type default, enabled, not connected.",
        "It has never sent data.",
        f"It logs in with token …{token[-4:]}.",
    ]
    assert "  Reason: not in the device API" in lines
    start = lines.index(
        "2023-11-14 22:14:20 UTC: publish v1/devices/me/telemetry of thermo-1 from 192.0.2.1 over mqtt"
        " was refused with 0x99."
    )
    assert lines[start + 1 : start + 4] == [
        "  1 more like it are kept, since 2023-11-14 22:13:20 UTC.",
        "  Reason: second",
        '  Sent: {"a" ▸1}',
    ]


def test_a_device_that_cannot_log_in_is_said_to_be_such_a_one(device: Device) -> None:
    set_enabled(device, False)

    lines = list(explain("thermo-1"))

    assert "disabled, so it is refused" in lines[0]
    assert lines[2:] == ["It has no valid credential, so it cannot log in.", "No refusal is kept."]


def test_a_token_leads_to_its_device_valid_or_not_and_is_not_shown(device: Device) -> None:
    old = issue(device)
    new = rotate(device)
    refuse(device, LoginRefusal.UNKNOWN, what="login", reason=f"token …{old[-4:]} of thermo-1 was revoked 2 h ago")

    of_old, of_new = (list(explain(token)) for token in (old, new))

    assert of_old[0].startswith(f"The token …{old[-4:]} of thermo-1: revoked {timezone.now():%Y-%m-}")
    assert of_new[0] == f"The token …{new[-4:]} of thermo-1: valid."
    assert of_old[1:] == of_new[1:]
    assert any("was revoked 2 h ago" in line for line in of_old)
    assert not any(token in line for line in of_old + of_new for token in (old, new))


def test_a_token_that_nobody_has_leads_to_what_was_refused_by_its_end(device: Device) -> None:
    unknown = {"what": "login", "code": 0x86}
    refuse(None, LoginRefusal.UNKNOWN, claimed="token …Z9aq", reason="unknown token …Z9aq", **unknown)
    refuse(None, LoginRefusal.UNKNOWN, claimed="token …WXYZ", reason="unknown token …WXYZ", **unknown)

    lines = list(explain(UNKNOWN_TOKEN))

    assert lines[0] == "No device has or had the token …Z9aq, unless it was deleted."
    assert "  Reason: unknown token …Z9aq" in lines
    assert not any("WXYZ" in line or UNKNOWN_TOKEN in line for line in lines)


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_an_address_leads_to_all_that_came_from_there(device: Device, address: str) -> None:
    refuse(device)
    refuse(None, LoginRefusal.MISSING, claimed="", wire="http", what="login", code=401)
    refuse(device, address="192.0.2.2", reason="from elsewhere")

    lines = list(explain(address))

    assert lines[0] == "192.0.2.1 is an address."
    assert "2023-11-14 22:13:20 UTC: login from 192.0.2.1 over http was refused with 401." in lines
    assert any(line.endswith("of thermo-1 from 192.0.2.1 over mqtt was refused with 0x99.") for line in lines)
    assert "  Reason: from elsewhere" not in lines


def test_a_client_that_is_no_device_is_known_by_what_it_calls_itself(device: Device) -> None:
    refuse(None, MessageRefusal.NOT_LOGGED_IN, claimed="sensor-7")

    assert next(explain("sensor-7")) == "sensor-7 is no device, but what a client calls itself."


def test_nothing_is_said_of_what_is_known_to_nobody(device: Device) -> None:
    with pytest.raises(LookupError):
        list(explain("sensor-8"))
