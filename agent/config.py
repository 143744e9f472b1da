"""The agent's settings: one struct per section, read from TOML, overridden from the environment.

Every setting, its default and its explanation stand here and nowhere else; `docs/agent.toml` is generated
from this file. `SHOAL_<SECTION>_<KEY>` in the environment overrides a key (lists: separated by commas).
"""

import difflib
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from agent.errors import ConfigError
from contract import limits
from contract.ids import END, ID_PATTERN, ID_RULE, id_from
from contract.requests import Id, Privacy
from contract.settings import (
    BudgetMib,
    LogLevel,
    OnMetered,
    QueueLength,
    RateKib,
    SourceUrls,
    TelemetryLevel,
    Ttl,
    Windows,
)

PATHS = (Path("agent.toml"), Path("/etc/shoal/agent.toml"))
ENV_PREFIX = "SHOAL_"
ENV_CONFIG = "SHOAL_CONFIG"


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


def _default_id() -> str:
    return id_from(socket.gethostname(), "node")


def _default_state_dir() -> str:
    if os.geteuid() == 0:
        return "/var/lib/shoal"
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
    return f"{data}/shoal"


class Node(_Section, frozen=True, kw_only=True):
    """Who this node is."""

    id: Annotated[Id, Meta(description="Unique in the fleet. Default: the host's name.")] = msgspec.field(
        default_factory=_default_id
    )
    fleet: Annotated[Id, Meta(description="The fleet: the topics' root is shoal/v1/{fleet}/.")] = "home"
    site: Annotated[str, Meta(description="Nodes of one site may see prompts marked `site`.")] = ""
    pools: Annotated[list[Id], Meta(description="Pools this node answers for.")] = []
    labels: Annotated[dict[str, str], Meta(description='Free labels, as in { floor = "2" }.')] = {}
    state_dir: Annotated[
        str,
        Meta(description="Journal, models and control socket. Default: /var/lib/shoal for root, else your data home."),
    ] = msgspec.field(default_factory=_default_state_dir)


class Broker(_Section, frozen=True, kw_only=True):
    """The MQTT broker."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 1883
    protocol: Annotated[
        Literal["auto", "5", "3.1.1"], Meta(description="auto: MQTT 5, then 3.1.1 when the broker has no 5.")
    ] = "auto"
    username: str = ""
    password_file: Annotated[str, Meta(description="A file that holds the password.")] = ""
    keepalive_s: Annotated[int, Meta(ge=5, le=3600, description="60, or 300 on metered links.")] = 60
    session_expiry_s: Annotated[
        int, Meta(ge=0, le=2**32 - 1, description="How long the broker keeps prompts for this node while it is away.")
    ] = 7 * 24 * 3600
    tls: Annotated[bool, Meta(description="Implied by ca_file.")] = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Model(_Section, frozen=True, kw_only=True):
    """The default model: it answers requests that name none. All GGUF files in {state_dir}/models are served."""

    file: Annotated[
        str,
        Meta(description="A GGUF file. Default: the only text model in {state_dir}/models, or of several `name`."),
    ] = ""
    name: Annotated[
        str, Meta(pattern=r"^([a-z0-9][a-z0-9._-]{0,62})?" + END, description="Default: from the file's name.")
    ] = ""
    version: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]{0,62})?" + END,
            description="Default: 12 digits of the file's SHA-256.",
        ),
    ] = ""
    sha256: Annotated[
        str, Meta(pattern=r"^([0-9a-f]{64})?" + END, description="When set, a file with another digest is refused.")
    ] = ""
    context_tokens: Annotated[
        int,
        Meta(ge=64, le=1_048_576, description="Per request, of all models; at most what each was trained for."),
    ] = 2048


class Engine(_Section, frozen=True, kw_only=True):
    """The engines that run llama.cpp, a process for each model in use."""

    parallel: Annotated[
        int, Meta(ge=0, le=32, description="Requests decoded together, at most. 0: up to 16, as memory allows.")
    ] = 0
    threads: Annotated[
        int,
        Meta(ge=0, le=512, description="At most; 0: one for each core. Less while other work takes cores."),
    ] = 0
    adapter_slots: Annotated[
        int, Meta(ge=0, le=64, description="Adapters that decode together in one batch. 0: they take turns.")
    ] = 8
    prefix_cache_mib: Annotated[
        int, Meta(ge=0, le=65_536, description="RAM for beginnings of prompts that no running request holds.")
    ] = 64
    start_timeout_s: Annotated[int, Meta(ge=1, le=3600, description="Loading the model may take this long.")] = 180
    stall_s: Annotated[
        int, Meta(ge=1, le=3600, description="An engine that makes no step for this long is replaced.")
    ] = 60
    idle_s: Annotated[
        int,
        Meta(
            ge=0,
            le=7 * 24 * 3600,
            description="A model that nobody used for this long is unloaded, never the default one. 0: none is.",
        ),
    ] = 600
    socket: Annotated[
        str,
        Meta(
            description="Of the unit that starts engines (shoal-engine.socket). Empty: they are the agent's children."
        ),
    ] = ""
    memory_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24,
            description="For all engines; then 507. 0: 80 % of what the machine and its control groups have left.",
        ),
    ] = 0


class Limits(_Section, frozen=True, kw_only=True):
    """What is accepted."""

    queue: Annotated[QueueLength, Meta(description="Requests that may wait; then 429.")] = 64
    client_queue: Annotated[QueueLength, Meta(description="Requests of one client that may wait; then 429.")] = 64
    ttl_ms: Annotated[Ttl, Meta(description="Deadline of a request that names none.")] = limits.DEFAULT_TTL_MS
    drain_s: Annotated[
        int,
        Meta(
            ge=0, le=3600, description="At SIGTERM, running requests get this long; the others wait for the next start."
        ),
    ] = 20


class Sampling(_Section, frozen=True, kw_only=True):
    """What holds for requests that do not say."""

    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS)] = 256
    temperature: Annotated[float, Meta(ge=0, le=2, description="Small models wander at OpenAI's 1.0.")] = 0.2
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Meta(ge=0, le=1_000_000, description="0: no limit.")] = 40


class PrivacySection(_Section, frozen=True, kw_only=True):
    """Where prompts may go."""

    default: Annotated[Privacy, Meta(description="local, site, redact or any, for requests that do not say.")] = "local"
    names: Annotated[
        list[str], Meta(description="Names of people and places that redaction finds, besides those of its own list.")
    ] = []
    patterns: Annotated[
        list[str], Meta(description='What else redaction finds, as in ["^EMP-[0-9]{6}$"]; see docs/routing.md.')
    ] = []


class Journal(_Section, frozen=True, kw_only=True):
    """What is kept on disk."""

    keep_s: Annotated[
        int, Meta(ge=0, le=30 * 24 * 3600, description="Answers are kept at least this long to repeat them to a retry.")
    ] = 600
    outbox_mib: Annotated[
        int,
        Meta(ge=1, le=4096, description="Answers and events that wait for the broker; when full, requests get 507."),
    ] = 64


class Store(_Section, frozen=True, kw_only=True):
    """Adapters. What is pinned or in use stays; of the rest goes what is worth least."""

    adapters_mib: Annotated[
        int, Meta(ge=1, le=2**24, description="On disk; an import that does not fit even then gets 507.")
    ] = 1024
    models_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=2**24,
            description="On disk, of models that came as releases; then the oldest go that may. 0: as the disk has.",
        ),
    ] = 0
    resident_mib: Annotated[int, Meta(ge=1, le=2**24, description="In memory, of each model that runs.")] = 256
    allow_unfit: Annotated[
        bool, Meta(description="Use an adapter also with a model on which it failed its test; else that gets 400.")
    ] = False


class Log(_Section, frozen=True, kw_only=True):
    """Logs on standard error. They never hold prompt or answer text, at any level."""

    level: LogLevel = "info"
    format: Annotated[
        Literal["auto", "json", "console"], Meta(description="auto: console on a terminal, else JSON lines.")
    ] = "auto"


class Telemetry(_Section, frozen=True, kw_only=True):
    """What the node measures and sends; never texts. docs/telemetry.md has the columns, and what each level costs."""

    level: TelemetryLevel = "normal"


class Updates(_Section, frozen=True, kw_only=True):
    """How releases are fetched (docs/delivery.md). They come from the controller, and from what is named here."""

    sources: Annotated[
        SourceUrls, Meta(description="Mirrors of the controller's releases, as in https://host/releases/.")
    ] = []
    rate_kib_s: Annotated[RateKib, Meta(description="Fetched a second, at most, in KiB. 0: as fast as it comes.")] = 0
    budget_mib_day: Annotated[BudgetMib, Meta(description="Fetched a day (UTC), at most, in MiB. 0: no limit.")] = 0
    window: Annotated[
        Windows, Meta(description='When it is fetched, as in ["sat,sun 22:00-06:00 Europe/Berlin"]; none: always.')
    ] = []
    metered: Annotated[bool, Meta(description="The bytes of this node's link cost money.")] = False
    on_metered: Annotated[
        OnMetered, Meta(description="What is fetched over a metered link: nothing (never), adapters, or all (always).")
    ] = "adapters"
    neighbours: Annotated[
        bool, Meta(description="Get releases from nodes of the same site, and hand them out there.")
    ] = False
    neighbours_port: Annotated[
        int, Meta(ge=0, le=65535, description="Where they are handed out. 0: one that is free.")
    ] = 0
    neighbours_kib_s: Annotated[RateKib, Meta(description="Handed to them a second, at most, in KiB. 0: no limit.")] = (
        8192
    )


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of an agent."""

    node: Node = msgspec.field(default_factory=Node)
    broker: Broker = Broker()
    model: Model = Model()
    engine: Engine = Engine()
    limits: Limits = Limits()
    sampling: Sampling = Sampling()
    privacy: PrivacySection = PrivacySection()
    journal: Journal = Journal()
    store: Store = Store()
    log: Log = Log()
    telemetry: Telemetry = Telemetry()
    updates: Updates = Updates()

    @property
    def state_dir(self) -> Path:
        """Where everything of this node is kept."""
        return Path(self.node.state_dir).expanduser()


SECTIONS: dict[str, type[_Section]] = {
    name: hint for name, hint in get_type_hints(Config).items() if isinstance(hint, type)
}


def find_config(named: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file: the named one, else $SHOAL_CONFIG, else ./agent.toml, else /etc/shoal/agent.toml."""
    chosen = named or environ.get(ENV_CONFIG)
    return Path(chosen) if chosen else next((p for p in PATHS if p.is_file()), None)


def load_config(named: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Reads and checks the configuration; without any file the defaults hold.

    Raises:
        ConfigError: says file, line, `[section] key`, value, and what would be accepted.
    """
    path = find_config(named, environ)
    text = ""
    if path is not None:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    return parse_config(text, str(path or "the defaults"), environ)


def parse_config(text: str, origin: str, environ: Mapping[str, str]) -> Config:
    """Checks TOML text plus overrides from `environ`; `origin` names the text in errors.

    Raises:
        ConfigError: as for `load_config`.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read {origin} as TOML: {error}") from error
    from_env = _apply_environment(raw, environ)
    for section, keys in raw.items():
        _check_names(section, keys, text, origin)
    try:
        return msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        expected, _, path = str(error).partition(" - at `$.")
        expected = expected.replace(f"matching regex {ID_PATTERN!r}", f"that is an id ({ID_RULE})")
        section, _, key = path.rstrip("`").partition(".")
        key, index = re.match(r"([^\[.]*)(.*)", key).groups()  # type: ignore[union-attr]  # the pattern always matches
        variable = from_env.get((section, key))
        place = f"${variable}" if variable else f"{origin}{_line_of(text, section, key)}"
        value = raw.get(section, {})
        value = value.get(key) if isinstance(value, dict) else value
        raise ConfigError(
            f"cannot use {place}: [{section}] {key}{index} = {value!r}: {expected[:1].lower()}{expected[1:]}"
        ) from None


def _check_names(section: str, keys: object, text: str, origin: str) -> None:
    known = SECTIONS.get(section)
    if known is None:
        raise ConfigError(
            f"cannot use {origin}{_line_of(text, section, '')}: there is no section [{section}]"
            f"{_nearest(section, list(SECTIONS))}"
        )
    if not isinstance(keys, dict):
        raise ConfigError(f"cannot use {origin}: {section} is a section; write [{section}] and its keys below")
    for key in keys:
        if key not in known.__struct_fields__:
            raise ConfigError(
                f"cannot use {origin}{_line_of(text, section, key)}: [{section}] has no key {key!r}"
                f"{_nearest(key, list(known.__struct_fields__))}"
            )


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _line_of(text: str, section: str, key: str) -> str:
    """Where a section or key stands, as " line 12", or nothing when it is written in another form."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            inside = header[1].split(".")[0].strip("\"' ") == section
            if inside and not key:
                return f" line {number}"
        elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return f" line {number}"
    return ""


def _apply_environment(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Writes overrides into `raw`; returns which (section, key) came from which variable."""
    origin = {}
    for section, struct in SECTIONS.items():
        for key, hint in get_type_hints(struct).items():
            variable = f"{ENV_PREFIX}{section}_{key}".upper()
            if variable in environ:
                table = raw.setdefault(section, {})
                if isinstance(table, dict):
                    table[key] = _from_text(environ[variable], hint)
                    origin[section, key] = variable
    return origin


def _from_text(text: str, hint: Any) -> Any:
    """A value for `hint` from a variable's text; what does not fit stays text, for the check to refuse."""
    if get_origin(hint) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if get_origin(hint) is dict:
        return dict(part.strip().split("=", 1) for part in text.split(",") if "=" in part)
    if hint is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            return text
    return text


def sample() -> str:
    """The commented sample configuration, as TOML: every key with its default."""
    lines = ["# Shoal agent. Every key is optional; what stands here is the default.", ""]
    for section, struct in SECTIONS.items():
        lines += [f"# {struct.__doc__}", f"[{section}]"]
        for field, hint in get_type_hints(struct, include_extras=True).items():
            note = " ".join(_notes(hint))
            default = getattr(Config(), section).__getattribute__(field)
            if field in ("id", "state_dir") and section == "node":
                default = {"id": "kitchen-1", "state_dir": "/var/lib/shoal"}[field]
            lines += [f"# {note}"] if note else []
            lines.append(f"# {field} = {_toml(default)}")
        lines.append("")
    return "\n".join(lines)


def _notes(hint: Any) -> list[str]:
    metas = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Meta)]
    notes = [m.description for m in metas if m.description]
    if get_origin(getattr(hint, "__origin__", hint)) is Literal and not notes:
        notes.append(f"One of {', '.join(map(str, get_args(getattr(hint, '__origin__', hint))))}.")
    for meta in metas:
        if meta.gt is not None:
            notes.append(f"Above {meta.gt}, up to {meta.le}.")
        elif meta.ge is not None:
            notes.append(f"From {meta.ge} to {meta.le}.")
    return notes


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return "{}" if value == {} else str(value)
