"""Prepare a working copy: the virtual environment, the compiled engine, the broker for tests, the model.

    python3 bootstrap.py setup        .venv with everything in it
    python3 bootstrap.py programs     what the tests start: mosquitto, nginx, PostgreSQL and strace
    python3 bootstrap.py model        the default model, in .shoal/models
    python3 bootstrap.py embeddings   the default model for embeddings, in .shoal/embeddings
    python3 bootstrap.py hosts        what boots hosts for tests, and Ansible, in .shoal/hosts
    python3 bootstrap.py audit        known weaknesses of what is locked

The Makefile calls it; it needs nothing but Python's standard library. What always holds:

1. Every Python package that is installed or compiled has its hash in one of the lock files here.
2. llama.cpp is compiled once per user and version, with flags that let the wheel run on other machines. The
   wheel lies in a cache of our own: pip's cache could hold one that was built for this processor alone.
   In that cache a wheel is whole or absent.
3. Each command can be stopped at any point and started again; one that has nothing to do takes no time.
4. A foreseeable failure is one sentence, "cannot …: …; …", and exit code 1.
5. Python 3.8 can read this file, so that an old Python hears what is wrong instead of a syntax error.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".shoal-setup"
MODEL_DIR = Path(".shoal", "models")
EMBEDDINGS_DIR = Path(".shoal", "embeddings")
HOSTS_VENV = ROOT / ".shoal" / "hosts" / "venv"

MIN_PYTHON = (3, 11)
# What the stamp depends on: when one of these changes, setup runs again.
INPUTS = ("bootstrap.py", "pyproject.toml", "requirements.lock", "llama.lock", "llama-build.lock")

# On x86-64 GGML_NATIVE=OFF means AVX2 and nothing newer. A native build uses AMX where the processor has
# it, and crashes there (ggml-org/llama.cpp#20824). LLAVA_BUILD is image input, a sixth of the compile.
PORTABLE_FLAGS = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
# Names the flags in the wheel cache. Change it whenever PORTABLE_FLAGS changes.
VARIANT = "portable"
# These could put flags of this machine into the wheel.
FLAG_VARIABLES = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "SKBUILD_CMAKE_ARGS", "SKBUILD_CMAKE_DEFINE")

GIB = 1 << 30
VENV_BYTES = GIB  # measured: 0.4 GiB, plus pip's downloads
COMPILE_BYTES = GIB  # measured: 0.5 GiB
COMPILER_JOB_BYTES = GIB  # llama.cpp's largest files take about this much each

PROGRESS_INTERVAL_S = 10.0
NUM_LINES_KEPT = 40


class CannotError(Exception):
    """Something foreseeable is in the way; the message is a sentence for the person at the terminal."""

    def __init__(self, what: str, why: str, advice: str, log: Sequence[str] = ()) -> None:
        super().__init__(f"cannot {what}: {why}; {advice}")
        self.log = log


class CommandError(Exception):
    """A command ended with an error; `lines` are the last ones it wrote."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Cause(NamedTuple):
    """What an error of pip, apt-get or the compiler looks like, and what to tell about it."""

    pattern: str
    why: str
    advice: str


# The first that matches counts: without a network pip also says that there is "no matching distribution".
CAUSES = (
    Cause("No space left on device|Disk quota exceeded", "the disk is full", "free some space and run it again"),
    Cause(
        "DO NOT MATCH THE HASHES|Hash Sum mismatch",
        "a downloaded file is not the one that the lock file names",
        "look at the package index or proxy in use (pip config list)",
    ),
    Cause(
        "Could not get lock|Unable to (acquire|lock)",
        "another package installation is running",
        "wait for it to end and run it again",
    ),
    Cause(
        "name resolution|Name or service not known|NewConnectionError|Network is unreachable|ProxyError|"
        "Connect(ion)?( to .*)? ?[Tt]imed? ?out|ConnectTimeoutError|ReadTimeoutError|Connection refused|"
        "SSLError|Could not (resolve|connect)|Failed to fetch|IncompleteRead|from versions: none",
        "a server cannot be reached",
        "check the network and the proxy settings, and run it again",
    ),
    Cause(
        "No matching distribution found",
        "a package in the lock file is not offered for this Python and machine",
        "use Python 3.11 to 3.13 on x86-64 or aarch64, or look at the package index in use (pip config list)",
    ),
    Cause(
        "Killed signal|Killed$|out of memory|virtual memory exhausted|Cannot allocate memory",
        "the memory ran out",
        "add memory or swap, or run it again with CMAKE_BUILD_PARALLEL_LEVEL=1",
    ),
)


def cannot_because(what: str, failed: CommandError, advice: str) -> CannotError:
    """The sentence for a failed command: its known cause, or `advice` when the cause is none of those."""
    for cause in CAUSES:
        if any(re.search(cause.pattern, line) for line in failed.lines):
            return CannotError(what, cause.why, cause.advice, failed.lines)
    return CannotError(what, "it failed as shown above", advice, failed.lines)


# --- Progress -------------------------------------------------------------------------------------------


class Progress:
    """One line that changes on a terminal; elsewhere a new line at most every ten seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._status = ""
        self._started = time.monotonic()
        self._shown_at = -PROGRESS_INTERVAL_S
        self._is_terminal = sys.stderr.isatty()

    def update(self, status: str | None = None) -> None:
        """Show where things stand; without a new status only the time changes."""
        self._status = status or self._status
        now = time.monotonic()
        if self._is_terminal:
            line = self._line()[: shutil.get_terminal_size().columns - 1]
            sys.stderr.write(f"\r\x1b[K{line}")
        elif now - self._shown_at >= PROGRESS_INTERVAL_S:
            sys.stderr.write(self._line() + "\n")
            self._shown_at = now
        sys.stderr.flush()

    def end(self, outcome: str) -> None:
        """Leave the line behind with how it ended."""
        self._status = outcome
        sys.stderr.write(("\r\x1b[K" if self._is_terminal else "") + self._line() + "\n")

    def _line(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{self._title}: {self._status or 'started'} ({minutes}:{seconds:02d})"


def fetch_step(line: str) -> str | None:
    """What pip or apt-get is doing, from a line that it wrote."""
    if found := re.match(r"\s*Collecting ([^\s;]+)", line):
        return f"fetching {found[1]}"
    if line.startswith("Installing collected packages"):
        return "installing"
    if found := re.match(r"(?:Unpacking|Setting up) ([^\s:]+)", line):
        return f"installing {found[1]}"
    return None


def compile_step(line: str) -> str | None:
    """What the build of llama.cpp is doing, from a line of pip's or ninja's."""
    if found := re.search(r"\[(\d+)/(\d+)\]", line):
        return f"step {found[1]} of {found[2]}"
    if re.match(r"\s*Collecting ", line):
        return "downloading the source"
    if "Configuring CMake" in line:
        return "configuring"
    return None


def run_shown(
    title: str,
    command: Sequence[str | Path],
    step: Callable[[str], str | None] = fetch_step,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command and show only a line of progress.

    Raises:
        CommandError: the command failed; carries the last lines it wrote.
    """
    progress = Progress(title)
    kept: deque[str] = deque(maxlen=NUM_LINES_KEPT)
    with background(command, env) as process:
        for line in lines_with_pauses(process):
            if line and line.strip():
                kept.append(line)
            progress.update(step(line) if line else None)
    if process.returncode != 0:
        progress.end("failed")
        raise CommandError(list(kept))
    progress.end("done")


@contextlib.contextmanager
def background(command: Sequence[str | Path], env: Mapping[str, str] | None) -> Iterator[subprocess.Popen[bytes]]:
    """A running command that is gone, with all that it started, when the block is left."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A group of its own: stopping pip alone would leave ninja and the compilers running.
        process_group=0,
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def lines_with_pauses(process: subprocess.Popen[bytes]) -> Iterator[str | None]:
    """The lines that a process writes, and None for every second without one."""
    assert process.stdout is not None  # noqa: S101 - for the type checker; `background` always makes a pipe
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=1):
                yield None
                continue
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
    if rest:
        yield rest.decode(errors="replace")


# --- setup ----------------------------------------------------------------------------------------------


def setup() -> None:
    """Make .venv whole: the locked packages, the compiled engine, and this repository itself."""
    if is_set_up():
        say(".venv is up to date")
        return
    if not venv_works():
        make_venv()
    STAMP.unlink(missing_ok=True)
    if cached_wheel() is None:
        # Before the downloads, not after them.
        check_compiler()
    install_packages()
    install_engine(cached_wheel() or build_wheel())
    install_repository()
    STAMP.write_text(stamp_text())
    say(".venv is ready")


def check_python() -> None:
    """Refuse a Python that is too old for the code.

    Raises:
        CannotError: it is too old.
    """
    if sys.version_info < MIN_PYTHON:
        raise CannotError(
            "set up",
            f"Python 3.11 or newer is needed and {sys.executable} is {platform.python_version()}",
            "name a newer one, for example: make setup PYTHON=python3.12",
        )


def stamp_text() -> str:
    """What .venv was made from. The path counts because the scripts and the editable install contain it."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes() + b"\0")
    return f"{ROOT}\n{digest.hexdigest()}\n"


def is_set_up() -> bool:
    """Whether .venv is what setup would make."""
    scripts = (VENV_PYTHON, VENV / "bin" / "shoal-agent", VENV / "bin" / "fleet")
    return all(script.exists() for script in scripts) and STAMP.is_file() and STAMP.read_text() == stamp_text()


def venv_works() -> bool:
    """Whether there is a .venv to go on with: a new enough Python that runs, made for this place.

    Its Python may differ from ours: it stays as chosen until `make clean`.
    """
    if not VENV_PYTHON.exists():
        return False
    if STAMP.is_file() and STAMP.read_text().split("\n")[0] != str(ROOT):
        return False
    probe = f"import pip, sys; sys.exit(sys.version_info < {MIN_PYTHON})"
    return subprocess.run([VENV_PYTHON, "-c", probe], capture_output=True, check=False).returncode == 0


def make_venv() -> None:
    """Make an empty .venv, in place of a broken one.

    Raises:
        CannotError: Python's venv is not complete, or the disk is too full.
    """
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        raise CannotError(
            "make .venv",
            f"{sys.executable} comes without venv or ensurepip",
            "type: sudo apt-get install python3-venv",
        )
    check_space("make .venv", ROOT, VENV_BYTES)
    # Not sys.executable: inside an activated .venv that would be the very Python that --clear removes.
    base = getattr(sys, "_base_executable", sys.executable)
    try:
        run_shown("virtual environment", [base, "-m", "venv", "--clear", VENV])
    except CommandError as failed:
        raise cannot_because("make .venv", failed, "repair this Python, or name another one: PYTHON=…") from failed


def install_packages() -> None:
    """Install everything except llama-cpp-python, as locked.

    Raises:
        CannotError: pip failed.
    """
    try:
        # Wheels only: building from source would run code and fetch build tools that no lock names.
        pip("packages", "install", "--only-binary=:all:", "--require-hashes", "-r", "requirements.lock")
    except CommandError as failed:
        raise cannot_because("install the packages", failed, "run it again, or `make clean` first") from failed


def install_engine(wheel: Path) -> None:
    """Install the compiled llama-cpp-python.

    Raises:
        CannotError: pip failed.
    """
    try:
        # By force: the same version may be there from pip's cache, with the flags of another machine.
        pip("llama.cpp", "install", "--no-index", "--no-deps", "--force-reinstall", str(wheel))
    except CommandError as failed:
        raise cannot_because("install llama-cpp-python", failed, f"remove {wheel} and run it again") from failed


def install_repository() -> None:
    """Install the packages of this repository, editable, with the locked hatchling.

    Raises:
        CannotError: pip failed.
    """
    try:
        pip("shoal", "install", "--no-index", "--no-deps", "--no-build-isolation", "--editable", ".")
    except CommandError as failed:
        raise cannot_because("install shoal", failed, "repair what it names (pyproject.toml?)") from failed


def pip(
    title: str,
    *arguments: str,
    step: Callable[[str], str | None] = fetch_step,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run the pip of .venv with the user's settings for indexes, proxies and certificates.

    Raises:
        CommandError: pip failed.
    """
    environment = {
        **(os.environ if env is None else env),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_USER": "0",  # a user install is not possible in a virtual environment
    }
    run_shown(title, [VENV_PYTHON, "-m", "pip", *arguments], step, environment)


def check_space(what: str, place: Path, num_bytes: int) -> None:
    """Refuse to start what would fill the disk.

    Raises:
        CannotError: there is less than `num_bytes` free at `place`.
    """
    if shutil.disk_usage(place).free < num_bytes:
        raise CannotError(
            what, f"{place} has less than {num_bytes / GIB:.1f} GiB free", "free some space and run it again"
        )


# --- llama.cpp ------------------------------------------------------------------------------------------


def wheel_dir() -> Path:
    """Where the wheel for the locked version lies, with all that it depends on in the name.

    The wheel loads its libraries with ctypes (tag py3), so one serves every Python on this kind of machine.
    """
    locked = re.search(r"^llama-cpp-python==([^\s\\]+)", (ROOT / "llama.lock").read_text(), re.MULTILINE)
    if locked is None:
        raise CannotError("read llama.lock", "it names no version of llama-cpp-python", "run: git checkout llama.lock")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    machine = f"{sys.platform}_{platform.machine()}"
    return cache / "shoal" / "wheels" / f"{locked[1]}-{VARIANT}-py3-{machine}"


def cached_wheel() -> Path | None:
    """The wheel that an earlier setup built, here or in another clone."""
    return next(wheel_dir().glob("llama_cpp_python-*.whl"), None)


def check_compiler() -> None:
    """Refuse to start the build where it, or the wheel, would not work.

    Raises:
        CannotError: there is no compiler, or this processor lacks what the portable wheel needs.
    """
    what = "compile llama.cpp"
    missing = [
        language
        for language, variable, names in (
            ("C", "CC", ("cc", "gcc", "clang")),
            ("C++", "CXX", ("c++", "g++", "clang++")),
        )
        if not os.environ.get(variable) and not any(shutil.which(name) for name in names)
    ]
    if missing:
        why = f"there is no {' and no '.join(missing)} compiler"
        raise CannotError(what, why, "type: sudo apt-get install build-essential")
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() == "x86_64" and cpuinfo.exists() and "avx2" not in cpuinfo.read_text():
        raise CannotError(
            what, "this processor has no AVX2, which the portable wheel needs", "use another machine for now"
        )


def build_wheel() -> Path:
    """Compile llama-cpp-python from the locked source, with the locked tools, into the wheel cache.

    Raises:
        CannotError: it could not be downloaded or compiled.
    """
    target = wheel_dir()
    target.mkdir(parents=True, exist_ok=True)
    remove_abandoned_builds(target)
    check_space("compile llama.cpp", target, COMPILE_BYTES)
    # Inside the cache: the finished wheel is then put in place by a rename, and /tmp may be small.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target) as directory:
        work = Path(directory)
        try:
            tools = ("--only-binary=:all:", "--require-hashes", "-r", "llama-build.lock")
            pip("build tools", "install", "--target", str(work / "tools"), *tools)
            # Without --no-cache-dir and --no-binary pip may take a wheel from elsewhere, or keep ours.
            source = ("--no-cache-dir", "--no-binary=:all:", "--require-hashes", "-r", "llama.lock")
            # Verbose pip passes ninja's steps on; cmake's verbosity would bury errors in long commands.
            verbosity = ("--verbose", "--config-settings=cmake.verbose=false")
            options = (*verbosity, "--no-deps", "--no-build-isolation", "--wheel-dir", str(work / "wheel"))
            pip("compiling llama.cpp", "wheel", *options, *source, step=compile_step, env=compile_env(work))
        except CommandError as failed:
            advice = "repair what the compiler names, and run it again"
            raise cannot_because("compile llama.cpp", failed, advice) from failed
        built = next((work / "wheel").glob("llama_cpp_python-*.whl"))
        return built.replace(target / built.name)


def compile_env(work: Path) -> dict[str, str]:
    """The environment of the build: portable flags, the locked cmake and ninja, temporary files in `work`."""
    env = {name: value for name, value in os.environ.items() if name not in FLAG_VARIABLES}
    # Ninja's own choice, two jobs more than processors, takes a small machine out of memory.
    num_memory_jobs = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // COMPILER_JOB_BYTES
    num_jobs = max(1, min(len(os.sched_getaffinity(0)), num_memory_jobs))
    env.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(num_jobs))
    env["CMAKE_ARGS"] = PORTABLE_FLAGS
    env["PYTHONPATH"] = str(work / "tools")
    env["PATH"] = f"{work / 'tools' / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["TMPDIR"] = str(work)
    return env


def remove_abandoned_builds(target: Path) -> None:
    """Remove what builds that were killed left behind; a build of today may still be running elsewhere."""
    for directory in target.glob(".build-*"):
        if time.time() - directory.stat().st_mtime > 86400:
            shutil.rmtree(directory, ignore_errors=True)


# --- programs -------------------------------------------------------------------------------------------

PACKAGE_OF = {
    "mosquitto": "mosquitto",
    "mosquitto_pub": "mosquitto-clients",
    "mosquitto_sub": "mosquitto-clients",
    "initdb": "postgresql",
    "nginx": "nginx-light",
    "strace": "strace",
}
HOST_PACKAGE_OF = {
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "systemd-nspawn": "systemd-container",
}
# Where Debian keeps programs that are not in the PATH of ordinary users, or in nobody's.
MORE_PATHS = ("/usr/local/sbin", "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin")))

# The tests start servers of their own; the services of the packages are neither started nor enabled by us.
# The guard is the mechanism that Debian has for this. Should it be left behind by a power cut, it permits
# everything again, because the process that it names is gone.
INSTALL_SCRIPT = r"""
set -e
export DEBIAN_FRONTEND=noninteractive
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT
    trap 'exit 1' HUP INT TERM
    cat > "$guard" <<END
#!/bin/sh
case "\$*" in *mosquitto*|*nginx*|*postgresql*) kill -0 $$ 2> /dev/null && exit 101 ;; esac
exit 0
END
    chmod 755 "$guard"
fi
install() { apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=60 "$@"; }
install "$@" || { apt-get update && install "$@"; }
disable() { [ ! -d /run/systemd/system ] || systemctl disable --quiet --now "$1.service"; }
for package in "$@"; do
    case "$package" in
    mosquitto|postgresql) disable "$package" ;;
    nginx-light) disable nginx ;;
    esac
done
"""


def programs() -> None:
    """Have mosquitto and its clients, nginx, PostgreSQL and strace, from the system's packages when they are missing.

    Raises:
        CannotError: they are missing and we may not, or cannot, install them.
    """
    have_programs(PACKAGE_OF)


def hosts() -> None:
    """Have what boots hosts for tests, and Ansible in an environment of its own.

    Raises:
        CannotError: it is missing and we may not, or cannot, install it.
    """
    if os.geteuid() != 0:
        raise CannotError("boot hosts", "this needs root", "run it with sudo, or on a machine for tests")
    have_programs(HOST_PACKAGE_OF)
    hosts_venv()


def audit() -> None:
    """Ask the index for known weaknesses of what is locked; those in `audit.allow` are known, each until its date.

    Raises:
        CannotError: there is one, or the index cannot be asked.
    """
    hosts_venv()
    today = time.strftime("%Y-%m-%d", time.gmtime())
    lines = (line.split() for line in (ROOT / "audit.allow").read_text("utf-8").splitlines())
    allowed = [words[0] for words in lines if words and not words[0].startswith("#") and words[1] >= today]
    ignored = [word for weakness in allowed for word in ("--ignore-vuln", weakness)]
    for lock in ("requirements-host.lock", "requirements.lock", "llama-build.lock"):
        # Strict: where an index does not know its weaknesses, as mirrors do not, all would pass.
        options = ["--strict", "--disable-pip", "--require-hashes", "--requirement", lock, *ignored]
        command = [str(HOSTS_VENV / "bin" / "pip-audit"), *options]
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            raise CannotError(
                f"pass {lock}", "pip-audit says why above", "make lock UPGRADE=1, or audit.allow with a date"
            )


def hosts_venv() -> None:
    """Make .shoal/hosts/venv from hosts.lock."""
    lock = ROOT / "hosts.lock"
    stamp = HOSTS_VENV / "stamp"
    text = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == text:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(HOSTS_VENV)], check=True)
    arguments = ("install", "--only-binary=:all:", "--require-hashes", "-r", str(lock))
    try:
        run_shown("Ansible", [str(HOSTS_VENV / "bin" / "python"), "-m", "pip", *arguments], fetch_step)
    except CommandError as failed:
        raise cannot_because("install Ansible", failed, "look at the network, and run it again") from failed
    stamp.write_text(text)


def broker() -> None:
    """Have mosquitto, where we may; the demo goes without a fleet where we may not."""
    try:
        have_programs({"mosquitto": "mosquitto"})
    except CannotError as error:
        say(str(error))


def have_programs(package_of: Mapping[str, str]) -> None:
    """Install what is missing of these programs."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *MORE_PATHS])
    missing = sorted({package for name, package in package_of.items() if not shutil.which(name, path=path)})
    if not missing:
        return
    what = f"install {' and '.join(missing)}"
    if not shutil.which("apt-get"):
        raise CannotError(what, "there is no apt-get here", "install them with the package manager of this system")
    become_root = root_prefix()
    if become_root is None:
        raise CannotError(what, "this needs root", f"type: sudo apt-get install {' '.join(missing)}")
    try:
        run_shown(" and ".join(missing), [*become_root, "sh", "-c", INSTALL_SCRIPT, "sh", *missing])
    except CommandError as failed:
        raise cannot_because(what, failed, f"type: sudo apt-get install {' '.join(missing)}") from failed


def root_prefix() -> list[str] | None:
    """What a command that needs root begins with: nothing as root, sudo if it asks nothing, else None."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


# --- model ----------------------------------------------------------------------------------------------


def model() -> None:
    """Have the default model.

    Raises:
        CannotError: as `fetch_model`.
    """
    fetch_model("--dir", str(MODEL_DIR))


def embeddings() -> None:
    """Have the default model for embeddings; in a folder of its own, because the demo takes the only model of one.

    Raises:
        CannotError: as `fetch_model`.
    """
    fetch_model("--embeddings", "--dir", str(EMBEDDINGS_DIR))


def fetch_model(*words: str) -> None:
    """Let `shoal-agent` fetch a model, check its digest and show the progress.

    Raises:
        CannotError: .venv is not set up, or the fetch failed (and has said why).
    """
    agent = VENV / "bin" / "shoal-agent"
    if not agent.exists():
        raise CannotError("fetch the model", ".venv is not set up", "run: make setup")
    command = [str(agent), "models", "fetch", *words]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise CannotError("fetch the model", "shoal-agent failed as shown above", "run it again")


# --- Command line ---------------------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[], None]] = {
    "setup": setup,
    "programs": programs,
    "hosts": hosts,
    "audit": audit,
    "broker": broker,
    "model": model,
    "embeddings": embeddings,
}


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, file=sys.stderr)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Turn SIGTERM and SIGHUP into what Ctrl-C does, so that children and temporary files go away."""
    raise KeyboardInterrupt


def main() -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Prepare a working copy of Shoal.")
    parser.add_argument("command", choices=COMMANDS)
    name = parser.parse_args().command
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        check_python()
        COMMANDS[name]()
    except CannotError as error:
        for line in error.log:
            say(f"  | {line[:300]}")
        say(str(error))
        return 1
    except OSError as error:
        say(f"cannot run {name}: {error}; repair that and run it again")
        return 1
    except KeyboardInterrupt:
        say(f"\ncannot end {name}: it was interrupted; run it again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
