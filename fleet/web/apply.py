"""A fleet as its file says it shall be, over HTTP: what is different, and making it so."""

from fleet.api.apply import Change, FleetFile
from fleet.applying import Applying
from fleet.web.endpoint import Call, Endpoint

MAX_FILE_BYTES = 1024 * 1024


def endpoints(applying: Applying) -> list[Endpoint]:
    """Looking at the difference, and removing it."""

    def plan(call: Call) -> list[Change]:
        return applying.plan(call.body)

    def apply(call: Call) -> list[Change]:
        return applying.apply(call.body, call.caller.name)

    return [
        Endpoint(
            method="POST", path="/v1/plan", summary="What of a fleet is not as its file says; does nothing",
            least="viewer", work=plan, body=FleetFile, answer=list[Change], max_bytes=MAX_FILE_BYTES,
        ),
        Endpoint(
            method="POST", path="/v1/apply", summary="Make a fleet what its file says", least="operator", work=apply,
            body=FleetFile, answer=list[Change], max_bytes=MAX_FILE_BYTES,
        ),
    ]  # fmt: skip
