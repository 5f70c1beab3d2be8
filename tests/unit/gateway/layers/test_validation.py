"""Names as parts of keys: gateway.layers.validation."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.layers.validation import escape_name


class TestNames:
    @pytest.mark.parametrize("name", ["a", "valid-name_1.x", "specific.!abc", "a" * 99])
    def test_documented_names_are_used_as_they_are(self, name: str) -> None:
        assert escape_name(name) == name

    @given(st.text(min_size=1), st.text(min_size=1))
    def test_different_names_stay_different(self, one: str, two: str) -> None:
        assert (escape_name(one) == escape_name(two)) is (one == two)
        assert re.fullmatch(r"[\w.!%~-]{1,200}", escape_name(one), re.ASCII)

    @pytest.mark.parametrize("name", ["a" * 100, "é" * 100, "a~b", "%41"])
    def test_long_and_awkward_names_are_bounded(self, name: str) -> None:
        assert escape_name(name) != name
        assert len(escape_name(name)) <= 200
