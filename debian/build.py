"""Builds the Debian package for this machine's architecture: `make deb`, into `dist/`.

/opt/shoal is a virtual environment of the system's Python with the locked wheels, and that of llama.cpp which
`make setup` compiled, so no device needs a compiler. Beside it are the units and the list of what is inside (SBOM).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from bootstrap import cached_wheel
from debian.sbom import make_sbom

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3"  # the one that devices have
UV = [str(Path(sys.executable).with_name("uv")), "--no-config", "--quiet"]
CONTROL = """\
Package: shoal
Version: {version}
Architecture: {architecture}
Maintainer: The Shoal maintainers <maintainers@shoal.invalid>
Installed-Size: {kib}
Depends: python3 (>= {python}), python3 (<< {next_python}), libgomp1, libstdc++6, ca-certificates, systemd (>= 252)
Recommends: mosquitto
Section: net
Priority: optional
Description: small language models on a fleet of edge devices, asked over MQTT
 The agent of a device, the controller of a fleet, and the fleet command, with units
 that are neither enabled nor started by the installation.
"""


def main() -> int:
    """Builds the package; prints its path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revision", type=int, default=1, help="the package's, of the same version of Shoal")
    parser.add_argument("--into", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    version = f"{tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']['version']}-{options.revision}"
    architecture = output("dpkg", "--print-architecture")
    wheel = cached_wheel()
    if wheel is None:
        sys.exit("cannot find the wheel of llama.cpp: run `make setup`, which compiles it")
    options.into.mkdir(parents=True, exist_ok=True)
    package: Path = options.into / f"shoal_{version}_{architecture}.deb"
    with tempfile.TemporaryDirectory(prefix="shoal-deb-") as folder:
        stage = Path(folder) / "root"
        stage.mkdir(mode=0o755)
        install_python(stage, Path(folder), wheel)
        install_files(stage)
        write_sbom(stage, package.with_suffix(".cdx.json"), version)
        write_control(stage, version, architecture)
        # Fixed times and owners: the same sources give the same package. Only Debian 12 and later read zstd, and only
        # these have this Python.
        run("dpkg-deb", "--root-owner-group", "-Zzstd", "-z9", "--build", str(stage), str(package))
    print(package)
    return 0


def install_python(stage: Path, work: Path, llama_wheel: Path) -> None:
    """Makes /opt/shoal: everything from the lock with its hashes, then the two wheels that were built here."""
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(work))
    (own_wheel,) = work.glob("shoal-*.whl")
    home = stage / "opt/shoal"
    run(*UV, "venv", "--relocatable", "--python", PYTHON, str(home))
    python = ["--python", str(home / "bin/python"), "--link-mode", "copy"]
    run(*UV, "pip", "install", *python, "--require-hashes", "--only-binary", ":all:", "-r", "requirements-host.lock")
    run(*UV, "pip", "install", *python, "--no-deps", "--no-index", str(llama_wheel), str(own_wheel))
    # Python need not look at the source's time: nobody edits it, and the package's times are the build's.
    compiled = ["-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    run(str(home / "bin/python"), *compiled, "-s", str(stage), "-p", "/", str(home / "lib"))


def install_files(stage: Path) -> None:
    """Units, users and folders; the commands in everybody's PATH."""
    units = stage / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for pattern in ("*.service", "*.socket", "*.timer"):
        for unit in (ROOT / "systemd").glob(pattern):
            shutil.copy(unit, units)
    for kind in ("sysusers", "tmpfiles"):
        place = stage / f"usr/lib/{kind}.d"
        place.mkdir()
        shutil.copy(ROOT / f"systemd/{kind}.conf", place / "shoal.conf")
    commands = stage / "usr/bin"
    commands.mkdir()
    for name in ("shoal-agent", "fleet"):
        (commands / name).symlink_to(f"/opt/shoal/bin/{name}")
    documents = stage / "usr/share/doc/shoal"
    documents.mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", documents / "copyright")
    for path in stage.rglob("*"):
        if path.is_dir() or not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def write_sbom(stage: Path, beside: Path, version: str) -> None:
    """Writes what is inside, into the package and beside it."""
    locks = "".join((ROOT / name).read_text("utf-8") for name in ("requirements-host.lock", "llama.lock"))
    listed = make_sbom(stage / "opt/shoal/lib", locks, version)
    text = json.dumps(listed, indent=1, sort_keys=True) + "\n"
    (stage / "usr/share/doc/shoal/shoal.cdx.json").write_text(text, "utf-8")
    beside.write_text(text, "utf-8")


def write_control(stage: Path, version: str, architecture: str) -> None:
    """Writes what dpkg reads."""
    kib = sum(path.lstat().st_size for path in stage.rglob("*") if not path.is_dir()) // 1024
    major, minor = output(PYTHON, "-c", "import sys; print(*sys.version_info[:2])").split()
    control = stage / "DEBIAN"
    control.mkdir(mode=0o755)
    text = CONTROL.format(
        version=version,
        architecture=architecture,
        kib=kib,
        python=f"{major}.{minor}",
        next_python=f"{major}.{int(minor) + 1}",
    )
    (control / "control").write_text(text, "utf-8")
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(ROOT / "debian" / name, control)
        (control / name).chmod(0o755)


def run(*command: str) -> None:
    """Runs a command in the repository; its messages are shown."""
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"})


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failed:
        sys.exit(f"cannot build the package: {failed.cmd[0]} failed as shown above")
