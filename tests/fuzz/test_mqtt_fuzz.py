"""The short run of the fuzzing: some seconds in every run of the tests. `make fuzz` is the long one."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.unit.protocols.mqtt.codec.vectors import INVALID, VALID

SHORT = settings(
    max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

CONNECT_3_1 = b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02ab"
CONNECT_3_1_1 = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"
VECTORS = [vector.data for vector in (*VALID, *INVALID)]


@SHORT
@given(st.binary(max_size=100) | st.binary(min_size=1_000, max_size=1_500))
def test_whatever_happens_to_connections_is_what_the_contract_says(data: bytes) -> None:
    TARGETS["connections"](data)


@SHORT
@example(bytes(2), [CONNECT_3_1, CONNECT_3_1_1])
@given(st.binary(min_size=2, max_size=2), st.lists(st.sampled_from(VECTORS) | st.binary(max_size=20), max_size=6))
def test_a_stream_is_read_the_same_in_one_piece_and_in_many(choice: bytes, stream: list[bytes]) -> None:
    TARGETS["codec"](choice + b"".join(stream))


@pytest.mark.parametrize("data", VECTORS[::7], ids=lambda data: data.hex()[:16])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_takes_what_a_client_sends(target: str, data: bytes) -> None:
    TARGETS[target](data)
