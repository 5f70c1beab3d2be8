"""The files for containers: what can be checked of them without a container engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import Config, load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
REFERENCE = re.compile(r"\$\{(?P<name>\w+)(?P<required>:\?[^}]*)?\}")


def in_container(environment: dict[str, str]) -> Config:
    """The configuration in the container: the image's environment and that of the composition, secrets filled in."""
    image = dict(re.findall(r"(GATEWAY_\w+)=(\S+)", DOCKERFILE))
    values = {
        "GATEWAY_PUBLIC_URL": "https://gateway.example.org",
        "GATEWAY_SECRET_KEY": "k" * 50,
        "POSTGRES_PASSWORD": "p",
        "REDIS_PASSWORD": "r",
    }
    filled = {key: REFERENCE.sub(lambda match: values[match["name"]], text) for key, text in environment.items()}
    return load(environ=image | filled).config


def test_the_environment_of_the_gateway_is_a_valid_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    config = in_container(COMPOSE["services"]["gateway"]["environment"])

    assert config.database_url == "postgresql://gateway:p@postgres:5432/gateway"
    assert config.layer.url == "redis://:r@redis:6379/0"
    assert config.secret_key() == "k" * 50
    assert config.server.public_url == "https://gateway.example.org"
    assert [listener.bind for listener in config.listeners] == ["0.0.0.0:8000", "0.0.0.0:1883"]


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "compose.yaml").read_text()

    references = list(REFERENCE.finditer(text))

    assert {reference["name"] for reference in references} == {
        "GATEWAY_PUBLIC_URL",
        "GATEWAY_SECRET_KEY",
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
    }
    assert all(reference["required"] for reference in references)


def test_every_image_is_pinned_to_a_patch_release() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "image" in service]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    assert images
    for image in images:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+\.?\d*-[a-z-]+", image), image


def test_the_gateway_waits_until_its_services_are_healthy() -> None:
    services = COMPOSE["services"]
    waits_for = services["gateway"]["depends_on"]

    assert set(waits_for) == set(services) - {"gateway"}
    for name, wait in waits_for.items():
        assert wait["condition"] == "service_healthy"
        assert services[name]["healthcheck"]["test"]


def test_ports_are_published_on_the_loopback_only() -> None:
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_composition_stops_the_gateway_more_patiently_than_the_gateway_stops_its_connections() -> None:
    grace = int(COMPOSE["services"]["gateway"]["stop_grace_period"].removesuffix("s"))

    assert grace > 2 * Config.__dataclass_fields__["server"].default_factory().shutdown_timeout_s


def test_every_file_that_the_image_is_made_of_exists_and_is_sent_to_the_engine() -> None:
    sources = [source for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for source in line.split()[:-1]]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == path or path.startswith(source) for path in sent), source


def test_the_image_runs_without_rights() -> None:
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["fieldgate"]
    gateway = COMPOSE["services"]["gateway"]
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["read_only"] is True


def test_the_image_installs_by_hash_from_the_lock_file() -> None:
    installs = re.findall(r"pip install (.+)", DOCKERFILE)

    assert installs == ["--require-hashes -r requirements/runtime.lock", "--no-deps --no-build-isolation ."]
