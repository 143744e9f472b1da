"""A message from the broker, free of any MQTT library."""

from collections.abc import Callable

import msgspec

from contract.mqtt5 import Properties


class Incoming(msgspec.Struct, frozen=True):
    """`ack` tells the broker that it need not deliver it again."""

    topic: str
    payload: bytes
    properties: Properties
    retained: bool
    redelivered: bool
    packet_id: int
    ack: Callable[[], None]
