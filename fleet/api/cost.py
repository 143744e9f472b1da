"""What answers took, as it goes over HTTP."""

from typing import Annotated

from msgspec import Meta, Struct

from fleet.api.forms import Parameters


class CostFilter(Parameters, frozen=True, kw_only=True):
    """Of how many hours up to now."""

    hours: Annotated[int, Meta(ge=1, le=48)] = 24


class Took(Struct, frozen=True):
    """Answers of nodes and of clouds in a span, and what they took.

    `joules` is all that metered machines used, also while idle; `num_metered` of the `num_nodes` that answered have a
    meter. Money in billionths.
    """

    num_nodes: int
    num_metered: int
    answers: int
    metered_answers: int
    joules: float
    cloud_answers: int
    cloud_nano: int
