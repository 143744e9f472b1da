"""Operators over HTTP."""

from fleet.api.forms import Nothing
from fleet.api.operators import NewOperator, OperatorToken
from fleet.operators import Operators
from fleet.roles import Caller, Operator
from fleet.web.endpoint import Call, Endpoint


def endpoints(operators: Operators) -> list[Endpoint]:
    """What an admin does with operators; and who one is oneself."""

    def create(call: Call) -> OperatorToken:
        wanted: NewOperator = call.body
        ttl_ms = None if wanted.ttl_s is None else wanted.ttl_s * 1000
        return OperatorToken(operators.create(wanted.name, wanted.role, ttl_ms, actor=call.caller.name))

    def revoke(call: Call) -> Nothing:
        operators.revoke(call.path["name"], actor=call.caller.name)
        return Nothing()

    return [
        Endpoint(
            method="GET", path="/v1/me", summary="Who the token is from", least="viewer", clients=True,
            work=lambda call: call.caller, answer=Caller,
        ),
        Endpoint(
            method="GET", path="/v1/operators", summary="All operators", least="admin",
            work=lambda _call: operators.list(), answer=list[Operator],
        ),
        Endpoint(
            method="POST", path="/v1/operators", summary="Give somebody a token", least="admin",
            work=create, body=NewOperator, answer=OperatorToken,
        ),
        Endpoint(
            method="DELETE", path="/v1/operators/{name}", summary="Make a token void", least="admin",
            work=revoke, answer=Nothing,
        ),
    ]  # fmt: skip
