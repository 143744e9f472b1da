"""mosquitto as the fleet's broker: its configuration, and how it is told to read its files again."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from fleet.errors import FolderError
from fleet.folder import ROLES, BrokerSection, Folder, replace_private
from fleet.rights import completed

CONFIG_FILE = "mosquitto.conf"
PID_FILE = "mosquitto.pid"
RELOADED_WITHIN_S = 30

# Debian keeps it in /usr/sbin, which is not in the PATH of ordinary users.
MORE_PATHS = ("/usr/local/sbin", "/usr/sbin")

# Of the settings that are not the defaults:
# set_tcp_nodelay: a QoS 1 round trip takes 88 ms without, 0.5 ms with it on both ends.
# autosave: queued messages survive a kill -9; with the default of 1800 s none does.
# max_queued_messages: the default of 1000 drops finals silently, and 0 is broken in several versions.
# user: who started as root becomes this user, who must be able to read what is here.
GENERAL = """\
# Written by `fleet init`. Everything it names is in this folder.
per_listener_settings true
user {user}
pid_file {folder}/{pid_file}
set_tcp_nodelay true
persistence true
persistence_location {folder}/data/
autosave_on_changes true
autosave_interval 1
max_queued_messages 100000
"""

# The name in the certificate is the user, and the client id too: else anybody could end another's session
# by connecting with its client id, and what is queued for it would be lost.
LISTENER = """
listener {port}
tls_version tlsv1.2
cafile {folder}/{role}.crt
crlfile {folder}/{role}.crl
certfile {folder}/server.crt
keyfile {folder}/server.key
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/{role}.acl
"""


def configuration(folder: Path, settings: BrokerSection) -> str:
    """The text of `mosquitto.conf`, for a broker that keeps everything in `folder`."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    text = GENERAL.format(folder=folder, user=user, pid_file=PID_FILE)
    ports = {"node": settings.nodes_port, "client": settings.clients_port}
    return text + "".join(LISTENER.format(folder=folder, role=role, port=ports[role]) for role in ROLES)


def find_mosquitto() -> str | None:
    """The path of mosquitto, if it is installed."""
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *MORE_PATHS]))


def complete_rights(folder: Folder) -> bool:
    """Brings the access lists of a folder that an older version made up to date, and tells the broker.

    Returns:
        Whether there was something to do.

    Raises:
        FolderError: a list cannot be read or written, or the broker cannot be told.
    """
    changed = False
    for role in ROLES:
        file = folder.broker / f"{role}.acl"
        try:
            text = file.read_text("utf-8")
            whole = completed(text, role, folder.fleet)
            if whole != text:
                replace_private(file, whole.encode())
                changed = True
        except OSError as error:
            raise FolderError(f"cannot complete {file}: {error.strerror}; run this as the folder's owner") from error
    if changed:
        reload(folder)
    return changed


def running_pid(folder: Folder) -> int | None:
    """The process of the broker that runs with this folder's configuration, if one does."""
    try:
        pid = int((folder.broker / PID_FILE).read_text())
        # A pid is used again after a crash or a restart of the machine: look whose it is.
        program = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]  # empty for one that has ended
    except (OSError, ValueError):
        return None
    return pid if Path(program).name == "mosquitto" else None


def reload(folder: Folder) -> bool:
    """Lets the broker read its files again, among them who is revoked.

    Returns:
        Whether there is a broker that was told; one that does not run reads them when it starts.

    Raises:
        FolderError: it runs and cannot be told.
    """
    command = folder.settings.broker.reload
    pid = running_pid(folder)
    try:
        if command:
            subprocess.run(command, check=True, capture_output=True, timeout=RELOADED_WITHIN_S)
        elif pid is not None:
            os.kill(pid, signal.SIGHUP)
    except subprocess.SubprocessError as error:
        raise FolderError(
            f"cannot reload the broker with {command}: {error}; correct [broker] reload in fleet.toml"
        ) from error
    except OSError as error:
        raise FolderError(
            f"cannot reload the broker: {error.strerror}; run this as the broker's user, or set [broker] reload"
        ) from error
    return bool(command) or pid is not None
