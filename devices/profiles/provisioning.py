"""How a device that has no credential yet asks for one, as ThingsBoard's devices do.

No device is known then, so no profile of a device says it. The topics and the payloads are those of ThingsBoard.
"""

from typing import Any, Final, Literal, NamedTuple

import msgspec

from devices.profiles.base import PayloadError

USER_NAME: Final = "provision"
"""The user name or the client identifier of a client of MQTT that wants to be provisioned."""
REQUEST_TOPIC: Final = "/provision/request"
ANSWER_TOPIC: Final = "/provision/response"


class ProvisionRequest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What a device asks for: a name, and a credential of a kind, either of which it may leave to the gateway."""

    device_name: str = ""
    provision_device_key: str
    provision_device_secret: str
    credentials_type: Literal["ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE"] = "ACCESS_TOKEN"
    token: str | None = None
    username: str | None = None
    password: str | None = None
    client_id: str | None = None
    hash: str | None = None
    gateway: bool = False


class Provisioned(NamedTuple):
    """The credential that a device has got."""

    credentials_type: str
    value: str | dict[str, str]


_decoder: Final = msgspec.json.Decoder(ProvisionRequest)


def decode_request(payload: bytes) -> ProvisionRequest:
    """Reads a request. Raises PayloadError."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PayloadError(f"no request to be provisioned: {error}") from None


def encode_success(provisioned: Provisioned) -> bytes:
    """{"credentialsValue": "TOKEN", "credentialsType": "ACCESS_TOKEN", "status": "SUCCESS"}"""
    return _encode(
        {
            "credentialsValue": provisioned.value,
            "credentialsType": provisioned.credentials_type,
            "status": "SUCCESS",
        }
    )


def encode_not_found() -> bytes:
    """The answer to an unknown key, or a wrong secret."""
    return _encode({"errorMsg": "Provision data was not found!", "status": "NOT_FOUND"})


def encode_failure() -> bytes:
    """The answer to all else that is refused."""
    return _encode({"errorMsg": "Failed to provision device!", "status": "FAILURE"})


def _encode(answer: dict[str, Any]) -> bytes:
    return msgspec.json.encode(answer)
