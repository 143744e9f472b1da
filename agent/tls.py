"""TLS towards the broker and the controller."""

import ssl
from pathlib import Path

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` does not name.
NO_CHECK_TIME = 0x200000


def tls_context(
    ca_file: str | Path | None, cert_file: str | Path | None, key_file: str | Path | None = None, *, check_time: bool
) -> ssl.SSLContext:
    """A context that checks the server's name and chain, and its dates with `check_time`.

    Without, on a device whose clock is wrong, an expired certificate is taken too. Use that only with a root of the
    fleet's own, whose servers' certificates live as long as itself.

    Raises:
        OSError: a file cannot be read or is not in PEM form.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    if cert_file:
        # Without a function that gives it, OpenSSL would ask for an encrypted key's password on the terminal.
        context.load_cert_chain(cert_file, key_file or None, password=lambda: "")
    if not check_time:
        context.verify_flags |= NO_CHECK_TIME
    return context
