"""Telling the broker who is revoked, and ending the connections of who is.

mosquitto reads its lists again at SIGHUP and then refuses new connections, but keeps those that it has. There is no
command to end one. What ends it is another connection with the same client id, and that is the name in the certificate:
so the controller, who can sign any name, connects for a moment in place of the revoked one.
"""

import fcntl
import ssl
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from contract.enrolment import Role
from fleet import mosquitto
from fleet.authority import Authority, is_aging, revoked_serials
from fleet.broker_url import BrokerUrl
from fleet.folder import Folder, replace_private
from fleet.link import open_link

EVICTION_LIFE = timedelta(minutes=5)


def write_list(
    folder: Folder, role: Role, authority: Authority, serials: Callable[[], set[int]], now: datetime, *, fresh: bool
) -> bool:
    """Writes the list of a role's revoked certificates, when it is not current or `fresh`, and tells the broker.

    Returns:
        Whether there is a broker that knows it now.

    Raises:
        FolderError: the broker cannot be told.
    """
    file = folder.broker / f"{role}.crl"
    # One process at a time reads, counts up and writes; `serials` is asked inside, so the last writer knows all.
    with (folder.path / "authority" / f"{role}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        previous, wanted = file.read_bytes(), serials()
        if fresh or revoked_serials(previous) != wanted or is_aging(previous, now):
            replace_private(file, authority.revocation_list(wanted, now, previous))
            return mosquitto.reload(folder)
    return True


def evict(folder: Folder, role: Role, authority: Authority, name: str, now: datetime) -> None:
    """Ends the connection of `name`, and its session with what waits in it.

    Raises:
        BrokerError: the broker cannot be reached.
    """
    broker = BrokerUrl(folder.settings.broker.host, folder.port(role), tls=True)
    context = ssl.create_default_context(cadata=folder.authority("root").certificate_pem.decode())
    login = authority.login(name, now, EVICTION_LIFE)
    with tempfile.TemporaryDirectory() as place:  # mode 0700; ssl reads keys from files only
        file = Path(place, "login.pem")
        file.write_bytes(login.key_pem + login.certificate_pem)
        context.load_cert_chain(file)
    open_link(broker, context).close()
