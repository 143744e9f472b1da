"""`fleet login`."""

from typing import Annotated

import typer

from fleet.errors import UsageError
from fleet.login import DIGEST_PATTERN, URL_PATTERN, Login, check_root, store
from fleet.terminal import write


def login(
    url: Annotated[str, typer.Argument(help="The controller, https://host:8443.")],
    token: Annotated[
        str, typer.Option(envvar="SHOAL_FLEET_TOKEN", help="The token that `fleet operator create` printed.")
    ],
    ca_sha256: Annotated[str, typer.Option(help="SHA-256 of the fleet's root certificate, as `fleet init` prints it.")],
) -> None:
    """Remember a controller and who you are there, for the commands of this user."""
    from fleet.remote import Controller, fetch_root
    from fleet.roles import Caller

    url, digest = url.rstrip("/"), ca_sha256.lower()
    if not URL_PATTERN.match(url):
        raise UsageError(f"cannot use {url!r}: write https://host:port")
    if not DIGEST_PATTERN.match(digest):
        raise UsageError(f"cannot use --ca-sha256 {ca_sha256!r}: it has 64 digits from 0 to 9 and a to f")
    made = Login(url, check_root(fetch_root(url), digest, url), token)
    with Controller(made) as controller:
        me = controller.get("/v1/me", Caller)
    write(f"Logged in at {url} as {me.name}, {me.role}; stored in {store(made)}")
