"""Whose signatures on releases count, over HTTP."""

from typing import get_args

from fleet.api.forms import Nothing
from fleet.api.trust import MAX_METADATA_CHARS, Changed, Revocation, Role, RoleKeys, Rotation, Signatures, Waiting
from fleet.errors import NotFoundError
from fleet.releases.trust import Trust
from fleet.web.endpoint import Call, Endpoint


def endpoints(trust: Trust) -> list[Endpoint]:
    """What an admin changes of it, and what everybody may see."""

    def rotate(call: Call) -> Changed:
        wanted: Rotation = call.body
        return trust.rotate(_role(call), wanted.old, wanted.public, call.caller.name)

    def revoke(call: Call) -> Changed:
        wanted: Revocation = call.body
        return trust.revoke(_role(call), wanted.key, call.caller.name)

    def submit(call: Call) -> Changed:
        given: Signatures = call.body
        return trust.submit(_role(call), given.text, call.caller.name)

    def discard(call: Call) -> Nothing:
        trust.discard(_role(call), call.caller.name)
        return Nothing()

    return [
        Endpoint(
            method="GET", path="/v1/trust", summary="Whose signatures on releases count", least="viewer",
            work=lambda _call: trust.roles(), answer=list[RoleKeys],
        ),
        Endpoint(
            method="POST", path="/v1/trust/{role}/rotate", summary="Put a key in another's place", least="admin",
            work=rotate, body=Rotation, answer=Changed,
        ),
        Endpoint(
            method="POST", path="/v1/trust/{role}/revoke", summary="Have a key count no more", least="admin",
            work=revoke, body=Revocation, answer=Changed,
        ),
        Endpoint(
            method="GET", path="/v1/trust/{role}/pending", summary="Metadata that waits for signatures",
            least="viewer", work=lambda call: trust.waiting(_role(call)), answer=Waiting,
        ),
        Endpoint(
            method="POST", path="/v1/trust/{role}/pending", summary="Signatures for it", least="admin",
            work=submit, body=Signatures, answer=Changed, max_bytes=2 * MAX_METADATA_CHARS,
        ),
        Endpoint(
            method="DELETE", path="/v1/trust/{role}/pending", summary="Give up what waits", least="admin",
            work=discard, answer=Nothing,
        ),
    ]  # fmt: skip


def _role(call: Call) -> Role:
    for role in get_args(Role):
        if role == call.path["role"]:
            return role  # type: ignore[no-any-return]  # one of the literals
    raise NotFoundError(f"cannot find the role {call.path['role']!r}: there are {', '.join(get_args(Role))}")
