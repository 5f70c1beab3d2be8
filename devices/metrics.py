"""What the product counts."""

from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram


class LookUpMetrics(NamedTuple):
    """What `devices.look_ups.LookUps` counts."""

    asked: Counter
    groups: Counter
    waiting: Gauge
    refused: Counter


readings_committed = Counter("gateway_readings_committed", "Readings committed to the database")
readings_waiting = Gauge("gateway_readings_waiting", "Readings that wait for their commit")
commits = Counter("gateway_commits", "Commits of readings")
commit_seconds = Histogram(
    "gateway_commit_seconds",
    "Time of one commit of readings",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
commit_failures = Counter("gateway_commit_failures", "Commits of readings that failed and are tried again", ["error"])
commits_slow = Counter("gateway_commits_slow", "Attempts to commit readings that took longer than four seconds")
readings_unstorable = Counter("gateway_readings_unstorable", "Readings that the database refuses as data")
payloads_refused = Counter("gateway_payloads_refused", "Payloads of devices that were refused", ["protocol", "reason"])
numbers_missing = Counter("gateway_numbers_missing", "Numbers of devices that are none (nan, inf), which are no value")
logins_refused = Counter("gateway_device_logins_refused", "Devices that were not let in", ["protocol", "reason"])
refusals_recorded = Counter("gateway_refusals_recorded", "Refusals that were written to the database")
refusals_left_out = Counter(
    "gateway_refusals_left_out", "Refusals that were not: beyond a share, too many wait, or the database", ["why"]
)
password_logins_refused = Counter("gateway_password_logins_refused", "Logins of people that were refused", ["reason"])
credential_look_ups = LookUpMetrics(
    Counter("gateway_credential_look_ups", "Credentials that were looked up in the database"),
    Counter("gateway_credential_look_up_groups", "Groups in which they were"),
    Gauge("gateway_credential_look_ups_waiting", "Credentials that wait to be looked up"),
    Counter("gateway_credential_look_ups_refused", "Look-ups that were refused since too many wait"),
)
password_checks = LookUpMetrics(
    Counter("gateway_device_password_checks", "Passwords of devices that were compared with hashes"),
    Counter("gateway_device_password_check_groups", "Groups in which they were"),
    Gauge("gateway_device_password_checks_waiting", "Passwords of devices that wait for it"),
    Counter("gateway_device_password_checks_refused", "Checks of passwords that were refused since too many wait"),
)
fanout_failures = Counter("gateway_fanout_failures", "Messages to dashboards that the channel layer did not take")
announcements_unreadable = Counter(
    "gateway_announcements_unreadable", "Messages to dashboards that a dashboard could not read, and went without"
)
watch_failures = Counter(
    "gateway_watch_failures", "What could not be done about connections of devices, and is tried again", ["what"]
)
connections_cut = Counter("gateway_device_connections_cut", "Device connections closed by an order", ["reason"])
device_connections = Gauge("gateway_device_connections", "Open connections of devices (MQTT and WebSocket)")
keys = Gauge("gateway_keys", "Different keys in the database, when they were last counted")
keys_refused = Counter("gateway_keys_refused", "Messages refused because of too many keys, by the bound", ["bound"])
readings_deleted = Counter("gateway_readings_deleted", "Readings deleted by order, or because their device is gone")
timestamps_in_the_future = Counter(
    "gateway_timestamps_in_the_future", "Readings whose time is too far ahead of the gateway's clock"
)
timestamps_in_seconds = Counter(
    "gateway_timestamps_in_seconds", "Readings whose time, taken as milliseconds, is before 1973: probably seconds"
)
attributes_refused = Counter(
    "gateway_attributes_refused", "Changes of attributes that were refused because of a bound", ["bound"]
)
commands_refused = Counter("gateway_commands_refused", "Commands refused because too many wait for their device")
commands = Counter("gateway_commands", "Commands that came into a state", ["state"])
