"""A store for tests: it outlives the server that uses it, but not the process."""

from collections.abc import Iterable, Mapping

from protocols.mqtt.storage.rows import KINDS, Changes, Row, RowKind, Store


class MemoryStore(Store):
    """Rows in dicts by key."""

    def __init__(self) -> None:
        self._rows: dict[RowKind, dict[Row, Row]] = {kind: {} for kind in KINDS}

    def open(self) -> None:
        pass

    def load(self) -> Mapping[RowKind, Iterable[Row]]:
        return {kind: [rows[key] for key in sorted(rows)] for kind, rows in self._rows.items()}

    def write(self, changes: Changes) -> None:
        for kind, rows in changes.put.items():
            self._rows[kind].update((row[: kind.key_width], tuple(row)) for row in rows)
        for kind, keys in changes.removed.items():
            for key in keys:
                self._rows[kind].pop(key, None)

    def close(self) -> None:
        pass
