"""Every topic of the contract. Building and parsing come from one template each, so they are inverses.

NodeRequest(node="n1", client="c1").path("home")  ->  "shoal/v1/home/node/n1/req/c1"
parse("shoal/v1/home/node/n1/req/c1")             ->  ("home", NodeRequest(node="n1", client="c1"))
NodeRequest.filter("home", node="n1")             ->  "shoal/v1/home/node/n1/req/+"
"""

from typing import ClassVar, Self

from msgspec import Struct

from contract.ids import ID_RULE, is_id
from contract.limits import MAX_TOPIC_BYTES

ROOT = "shoal/v1"


class BadTopic(ValueError):
    """A topic that is none of the contract's."""


class Topic(Struct, frozen=True):
    """Base of all topics. A subclass is a template, who writes it, and how."""

    TEMPLATE: ClassVar[str]
    QOS: ClassVar[int] = 1
    RETAINED: ClassVar[bool] = False
    WRITER: ClassVar[str]
    WHAT: ClassVar[str]

    def __post_init__(self) -> None:
        for name in self.names():
            if not is_id(getattr(self, name)):
                raise BadTopic(f"cannot use {name} {getattr(self, name)!r}: an id is {ID_RULE}")

    @classmethod
    def names(cls) -> list[str]:
        """The ids in the template, in order."""
        return [level[1:-1] for level in cls.TEMPLATE.split("/") if level.startswith("{")]

    def path(self, fleet: str) -> str:
        """The topic's full name in `fleet`."""
        if not is_id(fleet):
            raise BadTopic(f"cannot use fleet {fleet!r}: an id is {ID_RULE}")
        return f"{ROOT}/{fleet}/{self.TEMPLATE.format(**{n: getattr(self, n) for n in self.names()})}"

    @classmethod
    def filter(cls, fleet: str, **ids: str) -> str:
        """A subscription filter: the ids that are given, and `+` for the others."""
        return f"{ROOT}/{fleet}/{cls.TEMPLATE.format(**{n: ids.get(n, '+') for n in cls.names()})}"

    @classmethod
    def match(cls, levels: list[str]) -> Self | None:
        """This topic with the ids that `levels` hold, or None when they are not of this template."""
        template = cls.TEMPLATE.split("/")
        if len(levels) != len(template):
            return None
        ids = {}
        for want, level in zip(template, levels, strict=True):
            if want.startswith("{"):
                if not is_id(level):
                    return None
                ids[want[1:-1]] = level
            elif want != level:
                return None
        return cls(**ids)


class NodeRequest(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/req/{client}", "that client", "a request for one node"
    node: str
    client: str


class PoolRequest(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "pool/{pool}/req/{client}", "that client", "a request for any member of the pool"
    pool: str
    client: str

    @classmethod
    def shared_filter(cls, fleet: str, pool: str) -> str:
        """The shared subscription of a member: the broker hands each request to one member."""
        return f"$share/{pool}/{cls.filter(fleet, pool=pool)}"


class NodeCancel(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/cancel/{client}", "that client", "stop a request"
    node: str
    client: str


class PoolCancel(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "pool/{pool}/cancel/{client}", "that client", "stop a request, whoever has it"
    pool: str
    client: str


class AnswerDelta(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "client/{client}/rx/{id}/delta", "node", "accepted (seq 0), then pieces of text"
    QOS = 0
    client: str
    id: str


class AnswerFinal(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "client/{client}/rx/{id}/final", "node", "the whole answer, or the error"
    client: str
    id: str


class PlainAnswer(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "client/{client}/answer", "node", "plain text, only for plain-text requests"
    client: str


class NodeStatus(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/status", "node, its last will, controller", "presence"
    RETAINED = True
    node: str


class NodeCard(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = (
        "node/{node}/card",
        "node, controller",
        "hardware, versions, models, adapters, speed",
    )
    RETAINED = True
    node: str


class NodeDesired(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/desired", "controller", "signed desired state"
    RETAINED = True
    node: str


class NodeReported(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = (
        "node/{node}/reported",
        "node, controller",
        "how far it is towards the desired state",
    )
    RETAINED = True
    node: str


class GroupPolicy(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "group/{group}/policy", "controller", "signed settings for many nodes"
    RETAINED = True
    group: str


class ClientQuota(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "quota/{client}", "controller", "signed quotas of a client, for the nodes that it asks"
    RETAINED = True
    client: str


class NodeCommand(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/cmd", "controller", "a one-shot command"
    node: str


class NodeEvent(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/evt/{kind}", "node", "alert, audit, cmd or rollout"
    node: str
    kind: str


class NodeTelemetry(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "node/{node}/tele/{kind}", "node", "sys, infer or net: batched rows"
    QOS = 0
    node: str
    kind: str


class NodeHave(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = (
        "node/{node}/have",
        "node, controller",
        "segments it can serve to neighbours",
    )
    QOS = 0
    RETAINED = True
    node: str


class NodeLoad(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "site/{site}/load/{node}", "node", "how soon it could answer, for its neighbours"
    QOS = 0
    RETAINED = True
    site: str
    node: str


class CloudRequest(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "ctl/cloud/{node}/req", "that node", "a request for the cloud, handed on by a node"
    node: str


class CloudDelta(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "ctl/cloud/{node}/rx/{id}/delta", "controller", "pieces of text from the cloud"
    QOS = 0
    node: str
    id: str


class CloudFinal(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "ctl/cloud/{node}/rx/{id}/final", "controller", "the cloud's whole answer, or the error"
    node: str
    id: str


class ControllerStatus(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "ctl/status", "controller, and its last will", "presence of the controller"
    RETAINED = True


class RolloutSummary(Topic, frozen=True):
    TEMPLATE, WRITER, WHAT = "rollout/{id}", "controller", "summary of a rollout, for pages"
    RETAINED = True
    id: str


ALL: tuple[type[Topic], ...] = (
    NodeRequest,
    PoolRequest,
    NodeCancel,
    PoolCancel,
    AnswerDelta,
    AnswerFinal,
    PlainAnswer,
    NodeStatus,
    NodeCard,
    NodeDesired,
    NodeReported,
    GroupPolicy,
    ClientQuota,
    NodeCommand,
    NodeEvent,
    NodeTelemetry,
    NodeHave,
    NodeLoad,
    CloudRequest,
    CloudDelta,
    CloudFinal,
    ControllerStatus,
    RolloutSummary,
)


def parse(topic: str) -> tuple[str, Topic]:
    """The fleet and the topic that a full name stands for.

    Raises:
        BadTopic: the name is none of the contract's, or an id in it is not valid.
    """
    levels = topic.split("/")
    if len(topic) <= MAX_TOPIC_BYTES and "/".join(levels[:2]) == ROOT and len(levels) > 3 and is_id(levels[2]):
        for kind in ALL:
            if found := kind.match(levels[3:]):
                return levels[2], found
    raise BadTopic(f"cannot read topic {topic[:MAX_TOPIC_BYTES]!r}: it is none of the contract's")


def is_below_client(topic: str, fleet: str, client: str) -> bool:
    """Whether `topic` is a plain topic name strictly below the client's own `client/{client}/`."""
    prefix = f"{ROOT}/{fleet}/client/{client}/"
    rest = topic.removeprefix(prefix)
    return (
        topic.startswith(prefix)
        and len(topic.encode(errors="replace")) <= MAX_TOPIC_BYTES
        and all(rest.split("/"))
        and rest.isprintable()
        and not any(c in rest for c in "+#$")
    )
