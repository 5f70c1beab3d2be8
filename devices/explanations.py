"""Says in sentences what happened lately to a device, a token, an address or a client, what it means and what to do."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from devices.credentials import hash_of, hint_of, looks_like_token
from devices.models import Credential, Device, RecordedRefusal, shown_time, valid
from devices.refusals import LoginRefusal, MessageRefusal, ProvisioningRefusal
from devices.values import name_text
from protocols.addresses import parse_address
from protocols.masking import printable


class Explanation(NamedTuple):
    """What a kind of refusal means, and what to do about it."""

    meaning: str
    advice: str


EXPLANATIONS: Final[Mapping[str, Explanation]] = {
    LoginRefusal.UNKNOWN.reason: Explanation(
        "The token, or the user name with this password, lets nobody in: no device has it, it was revoked, or its"
        " device is disabled. The reason says which.",
        "Compare the end of the token with `gateway device show`; enable the device, or give it the token that"
        " `gateway device rotate` prints.",
    ),
    LoginRefusal.MISSING.reason: Explanation(
        "The client has sent no token and no certificate that is a device's.",
        "Put the token into the user name (MQTT), or into the header `Authorization: Bearer TOKEN` (HTTP, WebSocket).",
    ),
    LoginRefusal.CUT.reason: Explanation(
        "The device was disabled, deleted or given another credential while it logged in.",
        "Nothing, if it comes back with a valid credential.",
    ),
    LoginRefusal.UNKNOWN_CERTIFICATE.reason: Explanation(
        "TLS has verified the certificate, but no device trusts a name in it, or the name was revoked, or the device"
        " is disabled.",
        "Tell the gateway whose it is: `gateway device trust`.",
    ),
    LoginRefusal.OTHER_DEVICE.reason: Explanation(
        "The token is that of one device and the certificate that of another.",
        "Give the client both of one device, or one of the two.",
    ),
    LoginRefusal.UNAVAILABLE.reason: Explanation(
        "The database did not answer, so nobody could say whose credential it is.",
        "See /readyz and the gateway's log. Devices that try again are let in when the database is back.",
    ),
    LoginRefusal.BUSY.reason: Explanation(
        "More logins waited for the database than may wait.",
        "Nothing, if the whole fleet came back at once; else look at the speed of the database.",
    ),
    LoginRefusal.FAILED_OFTEN.reason: Explanation(
        "Many logins of this address have failed, so more that fail are answered late. Valid tokens are let in.",
        "Find the client with the wrong token at that address. `max_failed_logins` in [devices] is the bound.",
    ),
    LoginRefusal.TOO_MANY.reason: Explanation(
        "The device has as many connections as it may have: its token is in use in several places, or it does not"
        " close connections.",
        "Give each device a token of its own. `max_connections` in [devices] is the bound.",
    ),
    LoginRefusal.FLAPPING.reason: Explanation(
        "Its connections end without DISCONNECT again and again, so it is kept out for a while: two clients with one"
        " client identifier take the session from each other, or the line is bad.",
        "Give each client an identifier of its own. `max_lost_connections` in [devices] is the bound.",
    ),
    ProvisioningRefusal.UNKNOWN.reason: Explanation(
        "A device has asked for a credential with a key and a secret that no device type has.",
        "Give its firmware those that `gateway device-type provisioning` has printed; a new pair ends the one before.",
    ),
    ProvisioningRefusal.NAME.reason: Explanation(
        "A device has asked for a credential under the name of one that has or had one, or that was not imported.",
        "Give the device a name of its own, or add it by `gateway device add --no-token`.",
    ),
    ProvisioningRefusal.FULL.reason: Explanation(
        "There are as many devices as there may be, so provisioning makes no further one.",
        "Delete devices, or raise `max_devices` in [devices].",
    ),
    ProvisioningRefusal.CREDENTIAL.reason: Explanation(
        "The credential or the name that the device has brought along is in use, too short or too long.",
        "See the reason; without a value the gateway makes one.",
    ),
    MessageRefusal.PAYLOAD.reason: Explanation(
        "The message is not what the profile of the device reads. Nothing of it is stored.",
        "Compare what was sent with docs/device-api.md; the mark ▸ is before the byte with the fault.",
    ),
    MessageRefusal.TOO_LARGE.reason: Explanation(
        "The message has more bytes than one may have. Nothing of it is stored.",
        "Send it in several messages.",
    ),
    MessageRefusal.UNSTORABLE.reason: Explanation(
        "The database does not take a value of the message. Nothing of it is stored.",
        "Look at the value that the reason names, and report it: the profile should not let it through.",
    ),
    MessageRefusal.REPLACED.reason: Explanation(
        "Another database has taken the place of the one before while the message waited for its commit.",
        "Nothing: the device sends it again.",
    ),
    MessageRefusal.KEYS.reason: Explanation(
        "The message has a key that no device has yet, and there are as many as there may be.",
        "Look for times or addresses in keys, and delete those. `max_keys` in [devices] is the bound.",
    ),
    MessageRefusal.KEYS_OF_DEVICE.reason: Explanation(
        "The message has a key that its device does not have yet, and it has as many as one may have.",
        "Look for times or addresses in its keys, and delete those. `max_keys_per_device` in [devices] is the bound.",
    ),
    MessageRefusal.QUOTA_OF_DEVICE.reason: Explanation(
        "The device would have more attributes than one may have, or more bytes of them. Nothing is stored.",
        "Look for times or addresses in their keys. `max_attributes_per_device` and `max_attribute_bytes_per_device` in"
        " [devices] are the bounds.",
    ),
    MessageRefusal.POLLS.reason: Explanation(
        "As many connections and requests of the device wait for commands or attributes as may.",
        "Let the device wait for the answer to one request before it makes the next.",
    ),
    MessageRefusal.NO_COMMAND.reason: Explanation(
        "The device has answered a command that is not there, or not any more.",
        "Let it answer to the identifier that came with the command; `gateway command list` shows what there is.",
    ),
    MessageRefusal.FINISHED_COMMAND.reason: Explanation(
        "The device has answered a command that is answered already, has expired, or was cancelled.",
        "Let it answer once, or give its commands more time: `gateway command send --expires`.",
    ),
    MessageRefusal.NO_DEVICE.reason: Explanation(
        "A bridge has brought a message of a device that is not there or is disabled.",
        "Add the device by the name in the topic, or enable it.",
    ),
    MessageRefusal.NOT_LOGGED_IN.reason: Explanation(
        "A client without credentials has used a topic of the device API.",
        "Give the client the token of a device as its user name.",
    ),
    MessageRefusal.TOPIC.reason: Explanation(
        "ThingsBoard takes telemetry by this topic, and this gateway does not.",
        "Publish JSON to v1/devices/me/telemetry.",
    ),
    MessageRefusal.IGNORED.reason: Explanation(
        "The topic is none of the device API. Before MQTT 5 the message was acknowledged and thrown away.",
        "Publish telemetry to v1/devices/me/telemetry.",
    ),
    "publish": Explanation(
        "The client may not publish to this topic.",
        "See docs/device-api.md for the topics of devices.",
    ),
    "subscribe": Explanation(
        "The client may not subscribe to this filter: a device reads its own topics only.",
        "See docs/device-api.md for what a device may subscribe to.",
    ),
    "will": Explanation(
        "The message that was to be published when the connection is lost was dropped: a device may have none.",
        "Nothing; the gateway knows by itself which devices are connected.",
    ),
}
"""By the kind of a recorded refusal."""

UNEXPLAINED: Final = Explanation("This version of the gateway does not know that kind.", "See the reason.")


def explain(subject: str) -> Iterator[str]:
    """The lines that explain what is known of `subject`: the name of a device, an address, a token, or what a client
    that is no device calls itself. Raises LookupError if it is none of these. A token is looked up by its hash, and not
    shown."""
    device = Device.objects.with_connected().select_related("type").filter(name=subject).first()
    credential = Credential.objects.filter(token_sha256=hash_of(subject)).select_related("device").first()
    address = parse_address(subject)
    if device is not None:
        yield from _of_device(device)
    elif credential is not None:
        yield from _of_credential(credential)
    elif address is not None:
        yield f"{address} is an address."
        yield from _told(RecordedRefusal.objects.filter(address=str(address)))
    else:
        yield from _of_unknown(subject)


def _of_device(device: Any) -> Iterator[str]:
    """Of one of `objects.with_connected`."""
    state = "enabled" if device.enabled else "disabled, so it is refused"
    connected = "connected" if device.connected else "not connected"
    seen = device.last_seen_ms
    yield f"{device} is a device of type {name_text(device.type.name)}, {state}, {connected}."
    yield "It has never sent data." if seen is None else f"It has sent data last at {shown_time(seen)}."
    named = [f"token {each}" for each in device.credentials.filter(valid())]
    named += [f"the user name {printable(str(each))}" for each in device.password_logins.filter(valid())]
    named += [f"a certificate with {each}" for each in device.certificate_names.filter(valid())]
    yield f"It logs in with {' or '.join(named)}." if named else "It has no valid credential, so it cannot log in."
    yield from _told(device.refusals.all())


def _of_credential(credential: Credential) -> Iterator[str]:
    yield f"The token {credential} of {credential.device}: {credential.state}."
    yield from _of_device(Device.objects.with_connected().select_related("type").get(pk=credential.device_id))


def _of_unknown(subject: str) -> Iterator[str]:
    is_token = looks_like_token(subject)
    refusals = RecordedRefusal.objects.filter(device=None, claimed=f"token {hint_of(subject)}" if is_token else subject)
    if is_token:
        yield f"No device has or had the token {hint_of(subject)}, unless it was deleted."
    elif refusals.exists():
        yield f"{printable(subject)} is no device, but what a client calls itself."
    else:
        raise LookupError(subject)
    yield from _told(refusals)


def _told(refusals: Any) -> Iterator[str]:
    """The newest refusal of each kind, wire and code, and how many there are."""
    kinds: dict[tuple[str, str, int], list[RecordedRefusal]] = {}
    for refusal in refusals:
        kinds.setdefault((refusal.kind, refusal.wire, refusal.code), []).append(refusal)
    if not kinds:
        yield "No refusal is kept."
    for (kind, wire, _), alike in kinds.items():
        newest = alike[0]
        of = f" of {newest.claimed}" if newest.claimed else ""
        whence = f" from {newest.address}" if newest.address else ""
        yield ""
        yield f"{shown_time(newest.at_ms)}: {newest.what}{of}{whence} over {wire} was refused with {newest.shown_code}."
        if len(alike) > 1:
            yield f"  {len(alike) - 1} more like it are kept, since {shown_time(alike[-1].at_ms)}."
        yield f"  Reason: {newest.reason}"
        if newest.shown_sample:
            yield f"  Sent: {newest.shown_sample}"
        meaning, advice = EXPLANATIONS.get(kind, UNEXPLAINED)
        yield f"  It means: {meaning}"
        yield f"  What to do: {advice}"
