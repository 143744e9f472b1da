"""The whole HTTP API for operators and applications."""

from collections.abc import Callable
from dataclasses import dataclass

from fleet.applying import Applying
from fleet.database.store import Database
from fleet.enrolment import Enrolment
from fleet.folder import Folder
from fleet.forgetting import Forgetting
from fleet.gateway import Gateway
from fleet.inventory import Inventory
from fleet.operators import Operators
from fleet.quota import QuotaBook
from fleet.readings import Readings
from fleet.releases.opening import Publishing
from fleet.rollouts import Rollouts
from fleet.steering import Steering
from fleet.targets import Targets
from fleet.web import (
    apply,
    audit,
    bundles,
    identities,
    left,
    nodes,
    operators,
    readings,
    releases,
    rollouts,
    steering,
    trust,
)  # fmt: skip
from fleet.web.chat import Chat
from fleet.web.endpoint import Endpoint
from fleet.web.events import Events


@dataclass(frozen=True)
class Parts:
    """The parts of a controller that can be reached over HTTP."""

    folder: Folder
    database: Database
    enrolment: Enrolment
    operators: Operators
    gateway: Gateway
    inventory: Inventory
    steering: Steering
    rollouts: Rollouts
    forgetting: Forgetting
    readings: Readings
    publishing: Publishing
    now_ms: Callable[[], int]


def all_endpoints(parts: Parts) -> list[Endpoint]:
    """Everything that is in the OpenAPI document."""
    root = parts.folder.authority("root")
    quotas = QuotaBook(parts.database, parts.now_ms)
    return [
        *operators.endpoints(parts.operators),
        *identities.endpoints(parts.enrolment, parts.operators, parts.folder.url, root.digest),
        *audit.endpoints(parts.database),
        *left.endpoints(parts.database),
        *nodes.endpoints(parts.inventory, parts.forgetting, parts.now_ms),
        *Events(parts.inventory).endpoints(),
        *steering.endpoints(parts.steering, parts.rollouts, parts.inventory),
        *rollouts.endpoints(parts.rollouts, parts.inventory),
        *apply.endpoints(Applying(parts.inventory, parts.steering, parts.rollouts)),
        *readings.endpoints(parts.readings, parts.inventory, parts.now_ms),
        *releases.endpoints(parts.publishing, parts.steering),
        *bundles.endpoints(parts.publishing),
        *trust.endpoints(parts.publishing.trust),
        *Chat(parts.gateway, quotas, Targets(parts.inventory), parts.now_ms).endpoints(),
    ]
