"""Which names of a client certificate make its holder which device."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from devices import credentials
from devices.client_certificates import Holder, fingerprint_in, holders_of, names_in, normalized, trust
from devices.models import Device, DeviceType, DisconnectOrder
from tests.support.authority import Authority, fingerprint


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def add(db: None) -> Callable[[str], Device]:
    def add_device(name: str) -> Device:
        return Device.objects.create(name=name, type=DeviceType.objects.get_or_create(name="default")[0])

    return add_device


def der(path: Path) -> bytes:
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)


def test_every_name_of_a_certificate_is_read(authority: Authority) -> None:
    path, _ = authority.issue(
        "s", "/O=works/CN=Sensor 7", "DNS:S7.Example.org,URI:urn:dev:7,IP:2001:db8::7,email:a@b.org"
    )

    names = names_in(der(path))

    assert names == {
        "fingerprint": {normalized("fingerprint", fingerprint(path))},
        "san": {"DNS:s7.example.org", "URI:urn:dev:7", "IP:2001:db8::7", "email:a@b.org"},
        "cn": {"Sensor 7"},
    }
    assert fingerprint_in(path.read_bytes()) in names["fingerprint"]


@pytest.mark.parametrize(
    ("kind", "written", "stored"),
    [
        ("san", "DNS:S7.Example.org", "DNS:s7.example.org"),
        ("san", "IP:2001:0db8::0007", "IP:2001:db8::7"),
        ("san", "URI:urn:Dev:7", "URI:urn:Dev:7"),
        ("cn", " Sensor 7 ", "Sensor 7"),
    ],
)
def test_a_name_is_stored_as_it_is_looked_for(kind: str, written: str, stored: str) -> None:
    assert normalized(kind, written) == stored


def holder_of(path: Path) -> Holder | str:
    return holders_of({"it": der(path)})["it"]


def device_of(path: Path) -> Device | None:
    """The device that a holder of the certificate is let in as, or kept out as."""
    holder = holder_of(path)
    return Device.objects.get(pk=holder.device_id) if isinstance(holder, Holder) else None


@pytest.mark.parametrize(
    ("kind", "written"),
    [("fingerprint", "AB"), ("fingerprint", "g" * 64), ("san", "s7.example.org"), ("san", "DNS:"), ("cn", " ")],
)
def test_what_no_certificate_has_is_refused(kind: str, written: str) -> None:
    with pytest.raises(ValueError, match="a"):
        normalized(kind, written)


def test_the_fingerprint_comes_before_alternative_names_and_those_before_the_common_name(
    authority: Authority, add: Callable[[str], Device]
) -> None:
    path, _ = authority.issue("x", "/CN=common", "DNS:alternative")
    by_common, by_alternative, by_fingerprint = add("one"), add("two"), add("three")
    names = "san DNS:alternative, cn common"
    assert holder_of(path) == f"no device has a certificate of these names: {names}"

    trust(by_common, "cn", "common")
    assert device_of(path) == by_common
    trust(by_alternative, "san", "DNS:alternative")
    assert device_of(path) == by_alternative
    trust(by_fingerprint, "fingerprint", fingerprint(path))
    assert device_of(path) == by_fingerprint


def test_a_certificate_with_the_names_of_two_devices_is_neither(
    authority: Authority, add: Callable[[str], Device]
) -> None:
    path, _ = authority.issue("two", "/CN=two", "DNS:a,DNS:b")
    a, b = add("a"), add("b")
    trust(a, "san", "DNS:a")
    trust(b, "san", "DNS:b")

    assert holder_of(path) == f"the certificate has names of a ({a.pk}) and b ({b.pk})"


def test_a_certificate_with_two_common_names_has_none(authority: Authority) -> None:
    path, _ = authority.issue("cns", "/CN=mine/CN=another")

    assert names_in(der(path))["cn"] == set()


def test_a_name_is_of_one_device_until_it_is_revoked(authority: Authority, add: Callable[[str], Device]) -> None:
    one, other = add("one"), add("other")
    name = trust(one, "cn", "sensor")
    with pytest.raises(ValueError, match="cn sensor is trusted for one already"):
        trust(other, "cn", "sensor")

    credentials.revoke_certificate(name)

    assert DisconnectOrder.objects.get().device_id == one.pk
    trust(other, "cn", "sensor")


def test_a_disabled_device_has_no_certificate(authority: Authority, add: Callable[[str], Device]) -> None:
    path, _ = authority.issue("off")
    device = add("off")
    trust(device, "cn", "off")

    credentials.set_enabled(device, False)

    holder = holder_of(path)
    assert isinstance(holder, Holder)
    assert (holder.device_id, holder.enabled) == (device.pk, False)


def test_a_revoked_name_says_whose_it_was_unless_it_is_valid_for_another(
    authority: Authority, add: Callable[[str], Device]
) -> None:
    path, _ = authority.issue("moved")
    one, other = add("one"), add("other")
    name = trust(one, "cn", "moved")

    credentials.revoke_certificate(name)

    holder = holder_of(path)
    assert isinstance(holder, Holder)
    assert (holder.device_id, holder.credential) == (one.pk, "certificate (cn moved)")
    assert holder.valid_until == name.revoked_at
    trust(other, "cn", "moved")
    assert device_of(path) == other


def test_one_that_cannot_be_read_does_not_spoil_the_others(authority: Authority, add: Callable[[str], Device]) -> None:
    path, _ = authority.issue("good")
    device = add("good")
    trust(device, "cn", "good")

    found = holders_of({"good": der(path), "bad": b"no certificate"})

    assert isinstance(found["good"], Holder)
    assert str(found["bad"]).startswith("the certificate cannot be read: ")
