"""Whose signatures on releases count, as it goes over HTTP."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from fleet.api.forms import Body

Role = Literal["root", "targets", "snapshot", "timestamp"]
KeyId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,64}$(?!\n)", description="A key's id, or how it begins.")]
MAX_METADATA_CHARS = 8 << 20


class Signer(Struct, frozen=True):
    """A key whose signatures count, and whether the controller has it."""

    id: str
    is_here: bool


class RoleKeys(Struct, frozen=True, kw_only=True):
    """A role. `missing`: how many signatures what waits still needs; None: nothing waits."""

    role: Role
    version: int
    expires_ms: int
    threshold: int
    keys: list[Signer]
    missing: int | None = None


class Rotation(Body, frozen=True, kw_only=True):
    """A key takes another's place. `old` may be left out where there is one; without `public` one is made."""

    old: KeyId | None = None
    public: Annotated[str, Meta(max_length=1024, description="A public key, PEM.")] | None = None


class Revocation(Body, frozen=True, kw_only=True):
    """A key shall count no more."""

    key: KeyId


class Changed(Struct, frozen=True, kw_only=True):
    """What nodes see once `missing` more have signed. `key`: the id of the new key."""

    missing: int
    key: str | None = None


class Waiting(Struct, frozen=True):
    """Metadata to be signed, as it is."""

    version: int
    missing: int
    text: str


class Signatures(Body, frozen=True, kw_only=True):
    """The same, signed."""

    text: Annotated[str, Meta(max_length=MAX_METADATA_CHARS)]
