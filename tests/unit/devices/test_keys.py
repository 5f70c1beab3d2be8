"""What is remembered of the keys that devices have: what was added and nothing else, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from devices.keys import KnownKeys

NUMBERS = {name: number for number, name in enumerate("abcdefgh")}


@given(st.lists(st.tuples(st.integers(1, 6), st.sets(st.sampled_from("abcdefgh")), st.booleans())))
def test_a_device_is_known_to_have_what_was_added_for_it_since_it_was_forgotten(
    steps: list[tuple[int, set[str], bool]],
) -> None:
    known = KnownKeys()
    model: dict[int, set[str]] = {}

    for device_id, names, is_forgotten in steps:
        if is_forgotten:
            known.forget(device_id)
            model.pop(device_id, None)
        known.add(device_id, {name: NUMBERS[name] for name in names})
        model.setdefault(device_id, set()).update(names)
        assert {device: dict(known.of(device)) for device in model} == {
            device: {name: NUMBERS[name] for name in names} for device, names in model.items()
        }


def test_devices_that_have_the_same_keys_share_what_is_remembered() -> None:
    known = KnownKeys()

    for device_id in range(3):
        known.add(device_id, {"b": 2})
        known.add(device_id, {"a": 1})

    assert known.of(0) is known.of(1) is known.of(2)


def test_keys_that_were_given_another_number_have_the_new_one() -> None:
    known = KnownKeys()
    known.add(1, {"a": 1})

    known.add(1, {"a": 2})

    assert known.of(1) == {"a": 2}


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=200))
def test_however_many_devices_and_keys_there_are_no_more_is_remembered_than_the_bounds_say(
    steps: list[tuple[int, int]],
) -> None:
    known = KnownKeys(max_devices=10, max_numbers=25)

    for device_id, number in steps:
        known.add(device_id, {f"k{number}": number})
        sets = {id(known.of(device)): len(known.of(device)) for device in range(41)}
        assert sum(sets.values()) <= 25
        assert sum(bool(known.of(device)) for device in range(41)) <= 10


def test_one_device_that_grows_key_by_key_costs_no_other_what_is_remembered() -> None:
    known = KnownKeys(max_numbers=100)
    known.add(1, {"a": 1})

    for number in range(50):
        known.add(2, {f"k{number}": number})

    assert known.of(1) == {"a": 1}
    assert len(known.of(2)) == 50
