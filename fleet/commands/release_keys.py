"""`fleet release keys`, `pending`, `sign` and `submit`: signatures on releases, also from other machines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contract.release import reference_of
from fleet.commands.where import Dir, Json, connect, path
from fleet.errors import UsageError
from fleet.tables import date, print_json, print_table
from fleet.terminal import write

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata

keys_app = typer.Typer(help="Whose signatures on releases count.", no_args_is_help=True)

RoleName = Annotated[str, typer.Argument(metavar="ROLE", help="root, targets, snapshot or timestamp.")]
SHOWN_DIGITS = 16


@keys_app.command("ls")
def ls(json: Json = False, folder: Dir = None) -> None:
    """List roles and their keys, until when their signatures hold, and what waits for signatures."""
    from fleet.api.trust import RoleKeys

    with connect(folder) as controller:
        roles = controller.get("/v1/trust", list[RoleKeys])
    if json:
        print_json(roles)
        return
    rows = [
        (
            one.role if not number else "", key.id[:SHOWN_DIGITS], "here" if key.is_here else "away",
            f"{one.threshold} of {len(one.keys)}" if not number else "", "" if number else date(one.expires_ms),
            f"the next one needs {one.missing} more signatures" if one.missing and not number else "",
        )
        for one in roles
        for number, key in enumerate(one.keys)
    ]  # fmt: skip
    print_table(("role", "key", "", "sign", "until", ""), rows)


@keys_app.command("new")
def new(role: RoleName, folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where it shall lie.")]) -> None:
    """Make a key on this machine, without a controller, and print its public half, for `rotate --new`."""
    from fleet.releases.keys import make_key, public_pem

    if not folder.is_dir():
        raise UsageError(f"cannot make a key in {folder}: it is no folder; make it first")
    write(public_pem(make_key(folder, _role(role)).public_key), end="")


@keys_app.command("rotate")
def rotate(
    role: RoleName,
    old: Annotated[str | None, typer.Option(help="The key that goes, or how its id begins.")] = None,
    new_key: Annotated[
        Path | None, typer.Option("--new", help="A file with the new one's public half.  [default: made here]")
    ] = None,
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Put a new key in an old one's place: at once, or when enough keys of the root have signed."""
    from fleet.api.trust import Changed, Rotation

    public = _text(new_key) if new_key else None
    with connect(folder) as controller:
        done = controller.send("POST", path("trust", role, "rotate"), Changed, Rotation(old=old, public=public))
    if json:
        print_json(done)
        return
    made = "" if public else "; its file is in the controller's folder, under keys/"
    write(f"The new key of {role} is {(done.key or '')[:SHOWN_DIGITS]}{made}.")
    _tell("root", done.missing)


@keys_app.command("revoke")
def revoke(
    role: RoleName,
    key: Annotated[str, typer.Argument(help="The key, or how its id begins.")],
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Have a key count no more; where too few would be left, `rotate` it instead."""
    from fleet.api.trust import Changed, Revocation

    with connect(folder) as controller:
        done = controller.send("POST", path("trust", role, "revoke"), Changed, Revocation(key=key))
    if json:
        print_json(done)
        return
    _tell("root", done.missing)


def pending(
    role: Annotated[
        str, typer.Argument(metavar="[ROLE]", help="targets (which releases are approved) or root.")
    ] = "targets",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to.  [default: ROLE.json]")] = None,
    discard: Annotated[bool, typer.Option("--discard", help="Give it up instead: it was not to be.")] = False,
    folder: Dir = None,
) -> None:
    """Write what waits for signatures to a file, to be signed where the keys are."""
    from fleet.api.forms import Nothing
    from fleet.api.trust import Waiting

    with connect(folder) as controller:
        if discard:
            controller.send("DELETE", path("trust", role, "pending"), Nothing)
            write(f"What waited of {role} is gone.")
            return
        found = controller.get(path("trust", role, "pending"), Waiting)
    file = output or Path(f"{role}.json")
    _write(file, found.text.encode())
    write(f"Wrote {file}, version {found.version} of {role}; it needs {found.missing} more signature(s).")
    write(f"Where a key is: fleet release sign {file} --key KEYFILE; then here: fleet release submit {file}")


def sign(
    file: Annotated[Path, typer.Argument(help="What `fleet release pending` wrote.")],
    key: Annotated[list[Path], typer.Option(help="A key file; may be repeated.")],
) -> None:
    """Show what is in a file of metadata, and sign it. Needs no controller and no network."""
    from fleet.releases.keys import read_signer
    from fleet.releases.metadata import read_metadata

    metadata = read_metadata(_text(file).encode())
    signers = [read_signer(one) for one in key]
    _show(metadata)
    for signer in signers:
        metadata.sign(signer, append=True)
    _write(file, metadata.to_bytes())
    write(f"Signed {file} with {', '.join(signer.public_key.keyid[:SHOWN_DIGITS] for signer in signers)}.")


def submit(
    file: Annotated[Path, typer.Argument(help="What `fleet release sign` has signed.")],
    json: Json = False,
    folder: Dir = None,
) -> None:
    """Give signatures to the controller; with enough of them nodes see what was signed."""
    from fleet.api.trust import Changed, Signatures
    from fleet.releases.metadata import read_metadata

    text = _text(file)
    role = read_metadata(text.encode()).signed.type
    with connect(folder) as controller:
        done = controller.send("POST", path("trust", role, "pending"), Changed, Signatures(text=text))
    if json:
        print_json(done)
        return
    _tell(role, done.missing)


def _show(metadata: "Metadata[Any]") -> None:
    from tuf.api.metadata import Root, Targets

    signed = metadata.signed
    write(f"Version {signed.version} of {signed.type}, good until {signed.expires:%Y-%m-%d}:")
    if isinstance(signed, Targets):
        for name, target in sorted(signed.targets.items()):
            write(f"  {reference_of(name)}  manifest {target.hashes['sha256']}")
    if isinstance(signed, Root):
        for role, keys in signed.roles.items():
            write(f"  {role}: {keys.threshold} of {', '.join(keyid[:SHOWN_DIGITS] for keyid in keys.keyids)}")


def _tell(role: str, missing: int) -> None:
    if missing:
        write(f"It needs {missing} more signature(s): `fleet release pending {role}` writes what is to be signed.")
    else:
        write("Done; nodes see it.")


def _role(text: str) -> Any:
    from typing import get_args

    from fleet.api.trust import Role

    if text not in get_args(Role):
        raise UsageError(f"cannot find the role {text!r}: there are {', '.join(get_args(Role))}")
    return text


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {error}") from None


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}; name another place with --output") from None
