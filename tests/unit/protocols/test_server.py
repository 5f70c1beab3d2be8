"""The registry of protocol plug-ins."""

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from protocols import server
from protocols.server import ENTRY_POINT_GROUP, UnknownProtocolError, load_protocol


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What distributions offer, in place of what happens to be installed where the tests run."""
    offered = EntryPoints(
        EntryPoint(name, value, ENTRY_POINT_GROUP)
        for name, value in {"http": "protocols.http:HttpServer", "broken": "protocols.nowhere:Server"}.items()
    )

    def entry_points(**selection: Any) -> EntryPoints:
        return offered.select(**selection)

    monkeypatch.setattr(server, "entry_points", entry_points)


@pytest.mark.usefixtures("installed")
class TestLoadProtocol:
    def test_finds_the_server_by_its_name(self) -> None:
        assert load_protocol("http").protocol == "http"

    def test_an_unknown_name_is_told_with_those_that_are_known(self) -> None:
        with pytest.raises(
            UnknownProtocolError, match="no protocol 'htpp' is installed; known: broken, http"
        ) as caught:
            load_protocol("htpp")
        assert (caught.value.name, caught.value.known) == ("htpp", ["broken", "http"])

    def test_a_plug_in_that_cannot_be_imported_says_why(self) -> None:
        with pytest.raises(ModuleNotFoundError, match=r"protocols\.nowhere"):
            load_protocol("broken")
