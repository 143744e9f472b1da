"""Which messages stand on which topic. The schemas and tables for readers are generated from this."""

import msgspec

from contract import topics
from contract.answers import Accepted, Delta, Final
from contract.presence import Card, ControllerState, Have, Load, NodeState
from contract.requests import Cancel, Request
from contract.steering import Command, Desired, Event, Policy, Quota, Reported, Rollout, Signed, Telemetry

# A plain prompt and its answer are text and have no message; `PlainAnswer` is therefore empty.
ON_TOPIC: dict[type[topics.Topic], tuple[type[msgspec.Struct], ...]] = {
    topics.NodeRequest: (Request,),
    topics.PoolRequest: (Request,),
    topics.NodeCancel: (Cancel,),
    topics.PoolCancel: (Cancel,),
    topics.AnswerDelta: (Accepted, Delta),
    topics.AnswerFinal: (Final,),
    topics.PlainAnswer: (),
    topics.NodeStatus: (NodeState,),
    topics.NodeCard: (Card,),
    topics.NodeDesired: (Signed,),
    topics.NodeReported: (Reported,),
    topics.GroupPolicy: (Signed,),
    topics.ClientQuota: (Signed,),
    topics.NodeCommand: (Command,),
    topics.NodeEvent: (Event,),
    topics.NodeTelemetry: (Telemetry,),
    topics.NodeHave: (Have,),
    topics.NodeLoad: (Load,),
    topics.CloudRequest: (Request,),
    topics.CloudDelta: (Delta,),
    topics.CloudFinal: (Final,),
    topics.ControllerStatus: (ControllerState,),
    topics.RolloutSummary: (Rollout,),
}

# What the JSON text inside `Signed` is.
SIGNED: dict[type[topics.Topic], type[msgspec.Struct]] = {
    topics.NodeDesired: Desired,
    topics.GroupPolicy: Policy,
    topics.ClientQuota: Quota,
}

ALL: tuple[type[msgspec.Struct], ...] = tuple(
    dict.fromkeys([message for messages in ON_TOPIC.values() for message in messages] + list(SIGNED.values()))
)
