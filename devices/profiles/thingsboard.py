"""The profile of ThingsBoard's device API v1: its topics, those short ones whose payload is JSON, and its payloads.

Telemetry has four forms:

    {"k": v}    [{"k": v}, ...]    {"ts": ms, "values": {"k": v}}    [{"ts": ms, "values": {"k": v}}, ...]

Values are strings, booleans, numbers, objects and arrays; null is skipped. A string that is a number becomes one; an
integer beyond 64 bits and a decimal of more than 16 places become strings. `ts` is in milliseconds UTC. What is no JSON
by the book is read as ThingsBoard reads it (devices.profiles.lenient_json); that costs other messages nothing.
"""

import json
import re
from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from devices import metrics
from devices.profiles.base import (
    MAX_DEPTH,
    AttributesRequest,
    Call,
    Claim,
    NotJsonError,
    PayloadError,
    Point,
    SubDevice,
    SubDeviceAnswer,
    SubDeviceAttributesRequest,
    is_too_deep,
)
from devices.profiles.lenient_json import LenientJsonError, read
from devices.profiles.topics import Meaning, Topic, TopicTable

MAX_KEY_LENGTH: Final = 255
MAX_NAME_LENGTH: Final = 200
"""Of a device; that of a type is half of it."""
MAX_METHOD_LENGTH: Final = 255
MAX_SECRET_LENGTH: Final = 255
MAX_CLAIM_MS: Final = 2_592_000_000
"""30 days."""
MAX_POINTS: Final = 10_000
MAX_TS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z: the last time that every database and browser can show."""
MAX_TS_DIGITS: Final = 15

WRAPPING_DEPTH: Final = 3
"""The levels around a value: [{"ts": ..., "values": {...}}]."""

_TOO_DEEP: Final = f"JSON is nested too deeply: a value has at most {MAX_DEPTH} levels"
_MIN_INT64, _MAX_INT64 = -(2**63), 2**63 - 1
_EXACT = 2**53
_MAX_DECIMAL_PLACES = 16

# Numbers that a double may not hold as ThingsBoard wants it: 16 digits in a row, or an exponent. Only then is the
# slower decoder asked, which sees digits. With every digit made a 0 and E made e, they are two searches for fixed bytes
# (0.3 us for 50 bytes); as a regular expression they take 1 us, as much as all the rest of the decoding.
_SHAPE = bytes(ord("0") if chr(byte).isdecimal() else ord("e") if byte == ord("E") else byte for byte in range(256))
_LONG_NUMBER = b"0" * 16
_EXPONENT = b"0e"
_NUMERIC_STRING = re.compile(r"-?(?:\d+(?:\.\d+)?|\.\d+)", re.ASCII)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.encode


UPLINK: Final = TopicTable(
    Topic("v1/devices/me/telemetry", Meaning.TELEMETRY),
    Topic("v2/t", Meaning.TELEMETRY),
    Topic("v2/t/j", Meaning.TELEMETRY),
    Topic("v2/t/p", Meaning.UNREAD_TELEMETRY),  # protocol buffers, by a schema that ThingsBoard keeps
    Topic("v1/devices/me/attributes", Meaning.CLIENT_ATTRIBUTES),
    Topic("v2/a", Meaning.CLIENT_ATTRIBUTES),
    Topic("v2/a/j", Meaning.CLIENT_ATTRIBUTES),
    Topic(
        "v1/devices/me/attributes/request/{id}", Meaning.ATTRIBUTES_REQUEST, "v1/devices/me/attributes/response/{id}"
    ),
    Topic("v2/a/req/{id}", Meaning.ATTRIBUTES_REQUEST, "v2/a/res/{id}"),
    Topic("v2/a/req/j/{id}", Meaning.ATTRIBUTES_REQUEST, "v2/a/res/j/{id}"),
    Topic("v1/devices/me/rpc/response/{id}", Meaning.COMMAND_ANSWER),
    Topic("v2/r/res/{id}", Meaning.COMMAND_ANSWER),
    Topic("v2/r/res/j/{id}", Meaning.COMMAND_ANSWER),
    Topic("v1/devices/me/rpc/request/{id}", Meaning.CALL, "v1/devices/me/rpc/response/{id}"),
    Topic("v2/r/req/{id}", Meaning.CALL, "v2/r/res/{id}"),
    Topic("v2/r/req/j/{id}", Meaning.CALL, "v2/r/res/j/{id}"),
    Topic("v1/devices/me/claim", Meaning.CLAIM),
    Topic("/provision/request", Meaning.PROVISION_REQUEST, "/provision/response"),
    Topic("v2/fw/request/{id}/chunk/{chunk}", Meaning.FIRMWARE_REQUEST, "v2/fw/response/{id}/chunk/{chunk}"),
    Topic("v2/sw/request/{id}/chunk/{chunk}", Meaning.SOFTWARE_REQUEST, "v2/sw/response/{id}/chunk/{chunk}"),
    Topic("v1/gateway/connect", Meaning.GATEWAY_CONNECT),
    Topic("v1/gateway/disconnect", Meaning.GATEWAY_DISCONNECT),
    Topic("v1/gateway/telemetry", Meaning.GATEWAY_TELEMETRY),
    Topic("v1/gateway/attributes", Meaning.GATEWAY_CLIENT_ATTRIBUTES),
    Topic("v1/gateway/attributes/request", Meaning.GATEWAY_ATTRIBUTES_REQUEST, "v1/gateway/attributes/response"),
    Topic("v1/gateway/rpc", Meaning.GATEWAY_COMMAND_ANSWER),
    Topic("v1/gateway/claim", Meaning.GATEWAY_CLAIM),
)

DOWNLINK: Final = TopicTable(
    Topic("v1/devices/me/attributes", Meaning.SHARED_ATTRIBUTES),
    Topic("v2/a", Meaning.SHARED_ATTRIBUTES),
    Topic("v2/a/j", Meaning.SHARED_ATTRIBUTES),
    Topic("v1/devices/me/attributes/response/{id}", Meaning.ATTRIBUTES_ANSWER),
    Topic("v2/a/res/{id}", Meaning.ATTRIBUTES_ANSWER),
    Topic("v2/a/res/j/{id}", Meaning.ATTRIBUTES_ANSWER),
    Topic("v1/devices/me/rpc/request/{id}", Meaning.COMMAND),
    Topic("v2/r/req/{id}", Meaning.COMMAND),
    Topic("v2/r/req/j/{id}", Meaning.COMMAND),
    Topic("v1/devices/me/rpc/response/{id}", Meaning.CALL_ANSWER),
    Topic("v2/r/res/{id}", Meaning.CALL_ANSWER),
    Topic("v2/r/res/j/{id}", Meaning.CALL_ANSWER),
    Topic("v2/fw/response/{id}/chunk/{chunk}", Meaning.FIRMWARE_CHUNK),
    Topic("v2/fw/error", Meaning.FIRMWARE_ERROR),
    Topic("v2/sw/response/{id}/chunk/{chunk}", Meaning.SOFTWARE_CHUNK),
    Topic("v2/sw/error", Meaning.SOFTWARE_ERROR),
    Topic("v1/gateway/attributes", Meaning.GATEWAY_SHARED_ATTRIBUTES),
    Topic("v1/gateway/attributes/response", Meaning.GATEWAY_ATTRIBUTES_ANSWER),
    Topic("v1/gateway/rpc", Meaning.GATEWAY_COMMAND),
    Topic("/provision/response", Meaning.PROVISION_ANSWER),
)

REQUESTS: Final = TopicTable(
    Topic("POST telemetry", Meaning.TELEMETRY),
    Topic("POST attributes", Meaning.CLIENT_ATTRIBUTES),
    Topic("GET attributes", Meaning.ATTRIBUTES_REQUEST),
    Topic("GET attributes/updates", Meaning.SHARED_ATTRIBUTES),
    Topic("GET rpc", Meaning.COMMAND),
    Topic("POST rpc/{id}", Meaning.COMMAND_ANSWER),
    Topic("POST rpc", Meaning.CALL),
    Topic("POST claim", Meaning.CLAIM),
    Topic("GET firmware", Meaning.FIRMWARE_REQUEST),
    Topic("GET software", Meaning.SOFTWARE_REQUEST),
)

BRIDGED: Final = TopicTable(Topic("v1/devices/{device}/telemetry", Meaning.TELEMETRY))


class ThingsBoard:
    """The profile of devices and SDKs made for ThingsBoard. Its functions are documented in devices.profiles.base."""

    reserved_topics = ("v1/devices/", "v1/gateway/", "v2/")
    uplink = UPLINK
    downlink = DOWNLINK
    requests = REQUESTS
    bridged = BRIDGED

    def decode_telemetry(self, payload: bytes) -> list[Point]:
        """The readings in `payload`. Raises PayloadError; then none of it is to be stored."""
        content = parse_json(payload)
        points: list[Point] = []
        if type(content) is dict:
            _add(points, content)
        elif type(content) is list:
            for item in content:
                if type(item) is not dict:
                    raise PayloadError(f"expected an array of JSON objects, got {_kind(item)} in it")
                _add(points, item)
        else:
            raise PayloadError(f"expected a JSON object or array, got {_kind(content)}")
        if len(points) > MAX_POINTS:
            _require_few(len(points), "values")
        return points

    def decode_attributes(self, payload: bytes) -> dict[str, Any]:
        """One JSON object; values by the rules of telemetry."""
        values = _attributes(_parse_object(payload))
        _require_few(len(values), "attributes")
        return values

    def decode_attributes_request(self, payload: bytes) -> AttributesRequest:
        """{"clientKeys": "a,b", "sharedKeys": "c"}, either of which may be left out."""
        content = _parse_object(payload)
        return AttributesRequest(_keys(content.get("clientKeys")), _keys(content.get("sharedKeys")))

    def decode_attributes_query(self, query: bytes) -> AttributesRequest:
        """clientKeys=a,b&sharedKeys=c"""
        content = parse_qs(query.decode("latin-1"))
        return AttributesRequest(*(_keys(",".join(content.get(name, ()))) for name in ("clientKeys", "sharedKeys")))

    def decode_poll(self, query: bytes) -> float:
        """timeout=20000, in ms; ten seconds if it is left out."""
        given = parse_qs(query.decode("latin-1")).get("timeout", ["10000"])[-1]
        if not (given.isascii() and given.isdecimal() and len(given) <= MAX_TS_DIGITS):
            raise PayloadError(f'"timeout" is to be a number of milliseconds, got {given[:50]!r}')
        return int(given) / 1000

    def encode_attributes_answer(self, client: Mapping[str, Any], shared: Mapping[str, Any]) -> bytes:
        """{"client": {"a": 1}, "shared": {"c": 2}}; a scope without any is left out."""
        return _encode({scope: values for scope, values in (("client", client), ("shared", shared)) if values})

    def encode_attributes(self, values: Mapping[str, Any]) -> bytes:
        """{"k": v}"""
        return _encode(values)

    def encode_deleted_attributes(self, keys: Collection[str]) -> bytes:
        """{"deleted": ["k"]}"""
        return _encode({"deleted": list(keys)})

    def encode_command(
        self, method: str, params: Any, request_id: int | None = None, *, redelivered: bool = False
    ) -> bytes:
        """{"method": "m", "params": ...}, and by HTTP {"id": 1, ...}. One that is redelivered has "redelivered": true
        beside it, which ThingsBoard does not say and no firmware minds."""
        identifier = {} if request_id is None else {"id": request_id}
        mark = {"redelivered": True} if redelivered else {}
        return _encode({**identifier, "method": method, "params": params, **mark})

    def decode_answer(self, payload: bytes) -> Any:
        """Any JSON."""
        return _checked_depth(parse_json(payload))

    def decode_call(self, payload: bytes) -> Call:
        """{"method": "m", "params": ...}; without params they are null."""
        content = _parse_object(payload)
        method = content.get("method")
        if type(method) is not str or not 1 <= len(method) <= MAX_METHOD_LENGTH:
            raise PayloadError(f'"method" is to be a string of 1 to {MAX_METHOD_LENGTH} characters')
        return Call(method, _checked_depth(content.get("params")))

    def decode_claim(self, payload: bytes) -> Claim:
        """{"secretKey": "s", "durationMs": 60000}, either of which may be left out; or nothing."""
        return _claim(_parse_object(payload) if payload else {})

    def decode_gateway_connect(self, payload: bytes) -> SubDevice:
        """{"device": "A", "type": "x"}; the type may be left out."""
        content = _parse_object(payload)
        type_name = content.get("type")
        if type_name is not None and (type(type_name) is not str or not 1 <= len(type_name) <= MAX_NAME_LENGTH // 2):
            raise PayloadError(f'"type" is to be a string of 1 to {MAX_NAME_LENGTH // 2} characters')
        return SubDevice(_named_device(content), type_name)

    def decode_gateway_telemetry(self, payload: bytes) -> dict[str, list[Point]]:
        """{"A": [{"ts": ms, "values": {"k": v}}, {"k": v}]}; what else is beside "ts" and "values", as "metadata", is
        passed over."""
        devices: dict[str, list[Point]] = {}
        for name, items in _by_device(payload).items():
            if type(items) is not list:
                raise PayloadError(f"expected an array for {name!r}, got {_kind(items)}")
            points = devices[name] = []
            for item in items:
                if type(item) is not dict:
                    raise PayloadError(f"expected an array of JSON objects for {name!r}, got {_kind(item)} in it")
                _add(points, item)
        _require_few(sum(map(len, devices.values())), "values")
        return devices

    def decode_gateway_attributes(self, payload: bytes) -> dict[str, dict[str, Any]]:
        """{"A": {"k": v}}"""
        devices = {name: _attributes(_object(values, name)) for name, values in _by_device(payload).items()}
        _require_few(sum(map(len, devices.values())), "attributes")
        return devices

    def decode_gateway_attributes_request(self, payload: bytes) -> SubDeviceAttributesRequest:
        """{"id": 1, "device": "A", "client": true, "key": "k"}, or "keys": ["k"]; without "client", shared ones."""
        content = _parse_object(payload)
        number, client = content.get("id"), content.get("client", False)
        if type(number) is not int:
            raise PayloadError('"id" is to be a whole number')
        if type(client) is not bool:
            raise PayloadError(f'"client" is to be true or false, got {_kind(client)}')
        single = content.get("key")
        keys = content.get("keys") if single is None else [single]
        if type(keys) is not list or not keys or any(type(key) is not str for key in keys):
            raise PayloadError('"key" is to be a string, or "keys" an array of strings')
        asked = frozenset(map(_checked_key, keys))
        attributes = AttributesRequest(client=asked) if client else AttributesRequest(shared=asked)
        return SubDeviceAttributesRequest(number, _named_device(content), attributes, single)

    def encode_gateway_attributes_answer(self, asked: SubDeviceAttributesRequest, values: Mapping[str, Any]) -> bytes:
        """{"id": 1, "device": "A", "value": v}, null if it is not there; or "values": {"k": v}, of those that are."""
        found = {"values": values} if asked.single is None else {"value": values.get(asked.single)}
        return _encode({"id": asked.id, "device": asked.device, **found})

    def decode_gateway_answer(self, payload: bytes) -> SubDeviceAnswer:
        """{"device": "A", "id": 1, "data": ...}"""
        content = _parse_object(payload)
        number = content.get("id")
        if type(number) is not int:
            raise PayloadError('"id" is to be a whole number')
        return SubDeviceAnswer(_named_device(content), str(number), _checked_depth(content.get("data")))

    def decode_gateway_claims(self, payload: bytes) -> dict[str, Claim]:
        """{"A": {"secretKey": "s", "durationMs": 60000}}"""
        return {name: _claim(_object(claim, name)) for name, claim in _by_device(payload).items()}

    def encode_answer(self, answer: Any) -> bytes:
        """Any JSON."""
        return _encode(answer)

    def encode_error(self, why: str) -> bytes:
        """{"error": why}"""
        return _encode({"error": why})


def parse_json(payload: bytes) -> Any:
    """The JSON value in `payload`; None in place of a number that is none. Raises PayloadError."""
    try:
        shape = payload.translate(_SHAPE)
        if _LONG_NUMBER not in shape and _EXPONENT not in shape:
            return _decode(payload)
        value = json.loads(payload, parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant)
        _encode(value)  # raises for a lone surrogate, which is no text and which no database takes
        return value  # noqa: TRY300
    except RecursionError:
        raise PayloadError(_TOO_DEEP) from None
    except (msgspec.MsgspecError, ValueError):  # UnicodeDecodeError is a ValueError
        return _read_leniently(payload)


def _read_leniently(payload: bytes) -> Any:
    if not payload:
        raise PayloadError("empty, where JSON is expected")
    depth = MAX_DEPTH + WRAPPING_DEPTH
    try:
        reading = read(payload, max_depth=depth, parse_int=_parse_int, parse_float=_parse_float)
    except LenientJsonError as error:
        raise NotJsonError(error, error.position) from None
    metrics.numbers_missing.inc(reading.missing)
    return reading.content


def _add(points: list[Point], item: dict[str, Any]) -> None:
    """Adds the readings of one object, in either form."""
    ts: int | None = None
    values = item
    if "values" in item and "ts" in item:
        ts, values = _checked_ts(item["ts"]), item["values"]
        if type(values) is not dict:
            raise PayloadError(f'"values" is to be a JSON object, got {_kind(values)}')
    for key, value in values.items():
        if not key or len(key) > MAX_KEY_LENGTH or "\0" in key:
            _checked_key(key)
        kind = type(value)
        # The kinds in the order of how often they come.
        if kind is float:
            points.append((key, ts, value, None))
        elif kind is int:
            points.append(_integer(key, ts, value))
        elif kind is str:
            points.append(_string(key, ts, value))
        elif kind is bool:
            points.append((key, ts, float(value), "true" if value else "false"))
        elif value is not None:
            points.append((key, ts, None, _nested(value)))


def _parse_object(payload: bytes) -> dict[str, Any]:
    content = parse_json(payload)
    if type(content) is not dict:
        raise PayloadError(f"expected a JSON object, got {_kind(content)}")
    return content


def _object(value: Any, name: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise PayloadError(f"expected a JSON object for {name!r}, got {_kind(value)}")
    return value


def _by_device(payload: bytes) -> dict[str, Any]:
    """What is said of each device, by its name."""
    content = _parse_object(payload)
    _require_few(len(content), "devices")
    for name in content:
        _checked_name(name)
    return content


def _named_device(content: Mapping[str, Any]) -> str:
    return _checked_name(content.get("device"))


def _checked_name(name: object) -> str:
    if type(name) is not str or not name.strip() or len(name) > MAX_NAME_LENGTH or "\0" in name:
        raise PayloadError(f"the name of a device is a string of 1 to {MAX_NAME_LENGTH} characters, none of them NUL")
    return name


def _require_few(number: int, what: str) -> None:
    if number > MAX_POINTS:
        raise PayloadError(f"{number} {what} in one message; at most {MAX_POINTS} are taken")


def _attributes(content: Mapping[str, Any]) -> dict[str, Any]:
    return {_checked_key(key): _attribute(value) for key, value in content.items() if value is not None}


def _claim(content: Mapping[str, Any]) -> Claim:
    secret, duration_ms = content.get("secretKey"), content.get("durationMs")
    if secret is not None and (type(secret) is not str or len(secret) > MAX_SECRET_LENGTH):
        raise PayloadError(f'"secretKey" is to be a string of at most {MAX_SECRET_LENGTH} characters')
    if duration_ms is not None and (type(duration_ms) is not int or not 1 <= duration_ms <= MAX_CLAIM_MS):
        raise PayloadError(f'"durationMs" is to be a whole number from 1 to {MAX_CLAIM_MS}')
    return Claim(secret or "", duration_ms)


def _checked_key(key: str) -> str:
    if not key or len(key) > MAX_KEY_LENGTH or "\0" in key:
        raise PayloadError(f"a key has 1 to {MAX_KEY_LENGTH} characters, none of them NUL; got {key[:50]!r}")
    return key


def _keys(listed: object) -> frozenset[str]:
    """The keys in "a,b"."""
    if listed is None:
        return frozenset()
    if type(listed) is not str:
        raise PayloadError(f'keys are listed in a string, "a,b", got {_kind(listed)}')
    return frozenset(_checked_key(key) for key in map(str.strip, listed.split(",")) if key)


def _attribute(value: Any) -> Any:
    if type(value) is str and _NUMERIC_STRING.fullmatch(value):
        return _parse_float(value) if "." in value else _parse_int(value)
    return _checked_depth(value)


def _checked_depth(value: Any) -> Any:
    if type(value) in (dict, list) and is_too_deep(value):
        raise PayloadError(_TOO_DEEP)
    return value


def _checked_ts(ts: object) -> int:
    if type(ts) is float or (type(ts) is str and ts.isdecimal() and len(ts) <= MAX_TS_DIGITS):
        ts = int(ts)
    if type(ts) is not int or not 0 <= ts <= MAX_TS:
        got = repr(str(ts)[:50]) if type(ts) in {int, float, str} else _kind(ts)
        raise PayloadError(f'"ts" is to be milliseconds since 1970, got {got}')
    return ts


def _integer(key: str, ts: int | None, value: int) -> Point:
    if -_EXACT <= value <= _EXACT:
        return (key, ts, float(value), None)
    if _MIN_INT64 <= value <= _MAX_INT64:
        return (key, ts, float(value), str(value))
    return (key, ts, None, f'"{value}"')


def _string(key: str, ts: int | None, value: str) -> Point:
    if _NUMERIC_STRING.fullmatch(value):
        whole, _, places = value.partition(".")
        if not places:
            return _integer(key, ts, int(whole)) if len(whole) <= 20 else (key, ts, None, _text(value))
        number = float(value)
        if len(places) <= _MAX_DECIMAL_PLACES and abs(number) != float("inf"):
            return (key, ts, number, None)
    return (key, ts, None, _text(value))


def _nested(value: Any) -> str:
    """The text of an object or an array. Raises PayloadError if it is nested too deeply."""
    try:
        text = _text(value)
    except RecursionError:
        raise PayloadError(_TOO_DEEP) from None
    # Values as they usually are have fewer brackets than that, and are not walked.
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(value):
        raise PayloadError(_TOO_DEEP)
    return text


def _text(value: Any) -> str:
    return _encode(value).decode()


def _parse_int(digits: str) -> int | str:
    if len(digits) > 20:
        return digits
    number = int(digits)
    return number if _MIN_INT64 <= number <= _MAX_INT64 else digits


def _parse_float(digits: str) -> float | str:
    number = float(digits)
    try:
        exponent = Decimal(digits).as_tuple().exponent
    except InvalidOperation:  # it has an exponent of 19 digits or more
        return digits
    places = -exponent if isinstance(exponent, int) else 0
    return digits if places > _MAX_DECIMAL_PLACES or abs(number) == float("inf") else number


def _refuse_constant(name: str) -> None:
    raise PayloadError(f"not JSON: {name} is no number there")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
