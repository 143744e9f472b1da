"""Identities of nodes and clients over HTTP: tokens with which they enrol, keys of clients, revocation."""

from fleet.api.identities import ClientKey, EnrolmentToken, NewClient, NewToken, Revoked
from fleet.database.identities import Quotas
from fleet.enrolment import Enrolment
from fleet.operators import Operators
from fleet.web.endpoint import Call, Endpoint


def endpoints(enrolment: Enrolment, operators: Operators, url: str, ca_sha256: str) -> list[Endpoint]:
    """What an admin does with identities. `url` is where devices enrol."""

    def create_token(call: Call) -> EnrolmentToken:
        wanted: NewToken = call.body
        token = enrolment.create_token("node", wanted.node, wanted.ttl_s * 1000, actor=call.caller.name)
        return EnrolmentToken(token, url, ca_sha256)

    def create_client(call: Call) -> EnrolmentToken:
        wanted: NewClient = call.body
        quotas = Quotas(wanted.requests_per_minute, wanted.tokens_per_day)
        token = enrolment.create_token(
            "client", wanted.client, wanted.ttl_s * 1000, quotas=quotas, actor=call.caller.name
        )
        return EnrolmentToken(token, url, ca_sha256)

    def create_key(call: Call) -> ClientKey:
        return ClientKey(operators.create_key(call.path["client"], actor=call.caller.name))

    def revoke(call: Call) -> Revoked:
        return Revoked(enrolment.revoke(call.path["id"], actor=call.caller.name))

    return [
        Endpoint(
            method="POST", path="/v1/tokens", summary="A token with which a device enrols", least="admin",
            work=create_token, body=NewToken, answer=EnrolmentToken,
        ),
        Endpoint(
            method="POST", path="/v1/clients", summary="A client with its quotas, and a token", least="admin",
            work=create_client, body=NewClient, answer=EnrolmentToken,
        ),
        Endpoint(
            method="POST", path="/v1/clients/{client}/key", summary="A new key with which a client asks over HTTP",
            least="admin", work=create_key, answer=ClientKey,
        ),
        Endpoint(
            method="DELETE", path="/v1/identities/{id}", summary="Take the identity of a node or client away",
            least="admin", work=revoke, answer=Revoked,
        ),
    ]  # fmt: skip
