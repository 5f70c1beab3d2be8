"""What an operator can set for a listener of amqtt's broker, and what is made of amqtt's own configuration."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

PLUGIN: Final = "protocols.amqtt.plugin.ApplicationPlugin"
LISTENER: Final = "default"
"""The name of the one listener that amqtt knows: its connections are handed over to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqttOptions:
    """The keys of a `[[listeners]]` table with `protocol = "amqtt"`. Raises ValueError for values out of range."""

    allow_anonymous: bool = field(
        default=False, metadata={"help": "whether a client without credentials may be an ordinary broker client"}
    )
    config_file: Path | None = field(
        default=None, metadata={"help": "amqtt's own configuration (YAML): its plug-ins; its listeners do not count"}
    )
    connect_timeout_s: float = field(default=10.0, metadata={"help": "time for the CONNECT packet to come in full"})
    max_connections: int = field(default=1_000, metadata={"help": "one more is closed at once"})
    max_connections_per_address: int = field(
        default=250, metadata={"help": "of these, from one address (an IPv6 /64); 0: no limit"}
    )
    max_packet_bytes: int = field(default=262_144, metadata={"help": "a client that sends a larger packet is cut off"})

    def __post_init__(self) -> None:
        if min(self.connect_timeout_s, self.max_connections, self.max_packet_bytes) <= 0:
            raise ValueError("connect_timeout_s, max_connections and max_packet_bytes are more than 0")
        if self.max_connections_per_address < 0:
            raise ValueError("max_connections_per_address is 0 or more")


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
