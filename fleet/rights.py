"""Who may read and write which topic, and mosquitto's words for it.

mosquitto grants patterns to every user of a listener, with the user's name for `%u`, so a pattern cannot tell a
node from a client: a client could answer in place of nodes, or pose as one. Nodes and clients therefore have a
listener of their own each, with an authority and an access list of its own. The lists name no identity but the
controller's, so nothing is written or read again when a device joins.
"""

from collections.abc import Iterator

from contract import topics
from contract.enrolment import Role
from contract.topics import Topic
from fleet.errors import ConflictError

# The controller's name at the broker. It is no id, so nobody can be enrolled with it.
CONTROLLER = "_controller"

# The controller's client, with which it asks for who comes over HTTP. Topics take only ids, so it is one, and nobody
# else is enrolled with it.
GATEWAY = "gateway"

# What a node says about itself. One line each: `node/%u/+` would include its own desired state.
OF_NODE = (
    topics.NodeStatus, topics.NodeCard, topics.NodeReported, topics.NodeEvent, topics.NodeTelemetry, topics.NodeHave,
)  # fmt: skip
TO_NODE = (topics.NodeRequest, topics.NodeCancel, topics.NodeDesired, topics.NodeCommand)
TO_NODES = (topics.PoolRequest, topics.PoolCancel, topics.GroupPolicy, topics.ClientQuota, topics.NodeHave)
# What a node hands on: to a neighbour as that one's client, and to the controller for a cloud.
HANDED = (topics.NodeRequest, topics.NodeCancel)
OF_CLIENT = (topics.NodeRequest, topics.PoolRequest, topics.NodeCancel, topics.PoolCancel)
TO_NODE_FROM_CLOUD = (topics.CloudDelta, topics.CloudFinal)
OF_CONTROLLER = (
    topics.NodeDesired, topics.GroupPolicy, topics.ClientQuota, topics.NodeCommand, topics.ControllerStatus,
    topics.RolloutSummary, *TO_NODE_FROM_CLOUD,
)  # fmt: skip

# What of a node the broker keeps. The controller may empty it, because a node that is gone for good cannot.
EMPTIED = (topics.NodeStatus, topics.NodeCard, topics.NodeReported, topics.NodeHave)

# What the controller subscribes to. Its own documents too: the broker may keep newer ones than a restored database.
HEARD = {kind: kind.QOS for kind in (
    topics.NodeStatus, topics.NodeCard, topics.NodeReported, topics.NodeEvent, topics.NodeTelemetry,
    topics.NodeDesired, topics.GroupPolicy, topics.ClientQuota, topics.CloudRequest,
)}  # fmt: skip
# Of QoS 1 the broker keeps all that comes while the controller is away. Reports come at each heartbeat: those of 10,000
# nodes would take the room of events within the hour, and the last of each node is retained anyway.
HEARD[topics.NodeReported] = 0


def check_free(name: str) -> None:
    """Whether an identity may have this id.

    Raises:
        ConflictError: it is the controller's own.
    """
    if name == GATEWAY:
        raise ConflictError(f"cannot use id {name!r}: it is the controller's own; choose another")


def access_list(role: Role, fleet: str) -> str:
    """The access list of the listener for a role."""
    lines = list(_node_lines(fleet) if role == "node" else _client_lines(fleet))
    return "\n".join(lines) + "\n"


def completed(text: str, role: Role, fleet: str) -> str:
    """An access list, perhaps of an older version, with every line that a new one has. What else is in it stays."""
    lines = text.splitlines()
    place = 0
    for line in access_list(role, fleet).splitlines():
        if line in lines:
            place = lines.index(line) + 1
        elif line:
            lines.insert(place, line)  # after the one before it, so in the part of the same user
            place += 1
    return "\n".join(lines) + "\n"


def _node_lines(fleet: str) -> Iterator[str]:
    yield "# A node speaks for itself, hears what is for it, and answers clients."
    yield from (f"pattern write {_own(kind, fleet, 'node')}" for kind in OF_NODE)
    yield from (f"pattern read {_own(kind, fleet, 'node')}" for kind in TO_NODE)
    yield from (f"pattern read {kind.filter(fleet)}" for kind in TO_NODES)
    # A client may name a topic of its own below this for an answer, so the level is not fixed.
    yield f"pattern write {topics.ROOT}/{fleet}/client/+/#"
    yield ""
    yield "# It sees how busy its neighbours are, hands requests on, and hears what they answer."
    yield f"pattern write {_own(topics.NodeLoad, fleet, 'node')}"
    yield f"pattern read {topics.NodeLoad.filter(fleet)}"
    yield from (f"pattern write {_own(kind, fleet, 'client')}" for kind in HANDED)
    yield f"pattern read {topics.ROOT}/{fleet}/client/%u/rx/+/+"
    yield f"pattern write {_own(topics.CloudRequest, fleet, 'node')}"
    yield from (f"pattern read {_own(kind, fleet, 'node')}" for kind in TO_NODE_FROM_CLOUD)
    yield ""
    yield "# Only the controller steers."
    yield f"user {CONTROLLER}"
    # The patterns above are for every user, but denials come first. It is no node: prompts and answers are not for it.
    yield from (f"topic deny {topics.ROOT}/{fleet}/{level}/#" for level in ("pool", "client"))
    yield from (f"topic readwrite {kind.filter(fleet)}" for kind in OF_CONTROLLER + EMPTIED)
    yield from (f"topic read {kind.filter(fleet)}" for kind in OF_NODE if kind not in EMPTIED)
    yield f"topic read {topics.CloudRequest.filter(fleet)}"


def _client_lines(fleet: str) -> Iterator[str]:
    yield "# A client asks in its own name and hears its own answers."
    yield from (f"pattern write {_own(kind, fleet, 'client')}" for kind in OF_CLIENT)
    yield f"pattern read {topics.ROOT}/{fleet}/client/%u/#"


def _own(kind: type[Topic], fleet: str, role: Role) -> str:
    return kind.filter(fleet, **{role: "%u"})
