"""Certificates for tests, made by the `openssl` command."""

import subprocess
from pathlib import Path

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Authority:
    """A certificate authority and what it signed, as PEM files in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder, self.name = folder, name
        self.file = folder / f"{name}.crt"
        _openssl(
            "req", "-x509", *KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", self.key(name), "-out", self.file
        )

    def key(self, name: str) -> Path:
        """The file of a private key."""
        return self.folder / f"{name}.key"

    def sign(self, name: str) -> Path:
        """A certificate for `name` at 127.0.0.1; its key lies beside it."""
        request, certificate = self.folder / f"{name}.csr", self.folder / f"{name}.crt"
        _openssl("req", *KEY, "-subj", f"/CN={name}", "-keyout", self.key(name), "-out", request)
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName = IP:127.0.0.1\n")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.key(self.name), "-CAcreateserial",
            "-days", "2", "-extfile", extensions, "-out", certificate,
        )  # fmt: skip
        return certificate


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
