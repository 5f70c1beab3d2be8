"""What an operator can set for a listener of amqtt's broker, and what is made of amqtt's own configuration."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from protocols.options import check_options, option

PLUGIN: Final = "protocols.amqtt.plugin.ApplicationPlugin"
LISTENER: Final = "default"
"""The name of the one listener that amqtt knows: its connections are handed over to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqttOptions:
    """The keys of a `[[listeners]]` table with `protocol = "amqtt"`. Raises ValueError for values out of range."""

    allow_anonymous: bool = option(False, "whether a client without credentials may be an ordinary broker client")
    config_file: Path | None = option(
        None, "amqtt's own configuration (YAML): its plug-ins; its listeners do not count"
    )
    connect_timeout_s: float = option(10.0, "time for the CONNECT packet to come in full", more_than=0)
    max_connections: int = option(1_000, "one more is closed at once", at_least=1)
    max_connections_per_address: int = option(250, "of these, from one address (an IPv6 /64); 0: no limit", at_least=0)
    max_packet_bytes: int = option(262_144, "a client that sends a larger packet is cut off", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)


def broker_config(file: Path | None) -> dict[str, Any]:
    """amqtt's configuration, with our listener in the place of its own and our plug-in beside its own.

    Raises ValueError for a file that cannot be used.
    """
    own: Any = {}
    if file is not None:
        try:
            own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"config_file {file}: {error}") from error
    if not isinstance(own, dict):
        raise ValueError(f"config_file {file}: expected a mapping")  # noqa: TRY004
    if own.keys() & {"auth", "topic-check", "topic_check"}:
        raise ValueError(f"config_file {file}: auth and topic-check are amqtt's old way; name plug-ins under plugins")
    plugins = own.get("plugins") or {}
    if isinstance(plugins, list):
        plugins = {
            name: given for item in plugins for name, given in (item if isinstance(item, dict) else {item: {}}).items()
        }
    return {
        **own,
        "listeners": {LISTENER: {"type": "external"}},
        "plugins": {**{name: given or {} for name, given in plugins.items()}, PLUGIN: {}},
    }
