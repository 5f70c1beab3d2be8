"""The way down to a device: commands and changed shared attributes, from rows in the database to its connections.

A row is the truth. devices.downlink_notices says that something waits for a device: by a row, and by a message to the
channel layer, which reaches at once the process that has the device. A process that missed the message finds the row
within a second. Its `Downlink` takes what waits by compare-and-set, gives it to a connection of the device, a
`Receiver`, and writes down what became of it.
"""

from devices.downlink.engine import Downlink
from devices.downlink.receivers import (
    TOLD,
    AttributesDue,
    CommandDue,
    Due,
    Receiver,
    encode_due,
    encode_response,
)

__all__ = [
    "TOLD",
    "AttributesDue",
    "CommandDue",
    "Downlink",
    "Due",
    "Receiver",
    "encode_due",
    "encode_response",
]
