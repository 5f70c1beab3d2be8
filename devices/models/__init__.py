"""The tables, one module a subject. Only devices.ingest writes readings and latest values; the ORM writes all else.

Times are integer milliseconds UTC where devices are concerned (`_ms`, `ts`, `received`) and datetimes where people are.
"""

from devices.models.attributes import Attribute, AttributeManager
from devices.models.claims import ClaimOffer
from devices.models.commands import Command
from devices.models.credentials import CertificateName, Credential, DeviceCredential, PasswordLogin, valid
from devices.models.deletions import MAX_BIGINT, Deletion
from devices.models.devices import ConnectedDevice, Device, DeviceQuerySet, DeviceType, DisconnectOrder
from devices.models.downlink import DownlinkNotice
from devices.models.gateways import HEARTBEAT_INTERVAL_S, HEARTBEAT_TIMEOUT_MS, GatewayInstance
from devices.models.readings import Key, LatestValue, LatestValueManager, Reading, StoredValue
from devices.models.refusals import RecordedRefusal
from devices.models.times import DatabaseNow, now_ms, shown_time

__all__ = [
    "HEARTBEAT_INTERVAL_S",
    "HEARTBEAT_TIMEOUT_MS",
    "MAX_BIGINT",
    "Attribute",
    "AttributeManager",
    "CertificateName",
    "ClaimOffer",
    "Command",
    "ConnectedDevice",
    "Credential",
    "DatabaseNow",
    "Deletion",
    "Device",
    "DeviceCredential",
    "DeviceQuerySet",
    "DeviceType",
    "DisconnectOrder",
    "DownlinkNotice",
    "GatewayInstance",
    "Key",
    "LatestValue",
    "LatestValueManager",
    "PasswordLogin",
    "Reading",
    "RecordedRefusal",
    "StoredValue",
    "now_ms",
    "shown_time",
    "valid",
]
