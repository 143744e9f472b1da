"""What daemon and engine say to each other: msgpack, each frame behind its length in 4 bytes."""

from typing import Any, Literal

import msgspec

MAX_FRAME_BYTES = 8 * 1024 * 1024
_LENGTH_BYTES = 4


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Daemon to engine, first frame: what to load and how."""

    file: str
    context_tokens: int
    parallel: int
    threads: int
    flags: dict[str, bool]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen."""

    temperature: float
    top_p: float
    top_k: int
    seed: int | None = None
    logit_bias: dict[int, float] = {}


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Daemon to engine: answer this. `resume` are tokens an engine that died had already sent for it."""

    job: int
    turns: list[tuple[str, str]]
    sampling: Sampling
    max_tokens: int
    stops: list[str] = []
    output_schema: dict[str, Any] | None = None
    deadline_ms: float
    resume: list[int] = []


StopReason = Literal["cancelled", "deadline"]


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Daemon to engine: stop a job. It still ends with `Done`, with `reason` for its finish reason."""

    job: int
    reason: StopReason


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Daemon to engine: answer with `Pong`."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Engine to daemon: the model is loaded and has decoded a few tokens."""

    architecture: str
    context_tokens: int
    load_ms: float
    prefill_tok_s: float
    decode_tok_s: float


class Tokens(msgspec.Struct, frozen=True, tag="tokens"):
    """Engine to daemon: the next tokens of a job and the text that became certain with them (maybe none)."""

    job: int
    tokens: list[int]
    text: str


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """Engine to daemon: a job ended. `engine_first_token_ms` counts from the frame's arrival in the engine."""

    job: int
    finish_reason: str
    text: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    confidence: float | None
    engine_first_token_ms: float | None
    fits: bool | None


class Rejected(msgspec.Struct, frozen=True, kw_only=True, tag="rejected"):
    """Engine to daemon: a job cannot be run, with the answer for its sender."""

    job: int
    status: int
    code: str
    message: str


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag="pong"):
    """Engine to daemon: alive; `step_ms` is how long the step now running has taken so far (0: idle)."""

    step_ms: float


class Broken(msgspec.Struct, frozen=True, tag="broken"):
    """Engine to daemon, last frame: the model cannot be loaded, and another try will not help."""

    message: str


ToEngine = Load | Generate | Cancel | Ping
FromEngine = Ready | Tokens | Done | Rejected | Pong | Broken

_encoder = msgspec.msgpack.Encoder()


def encode(frame: ToEngine | FromEngine) -> bytes:
    """A frame's bytes, its length included."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Decoder:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self, kinds: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """The frames that `data` completes.

        Raises:
            ValueError: the other side does not speak this protocol.
        """
        self._buffer += data
        frames = []
        while len(self._buffer) >= _LENGTH_BYTES:
            size = int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            if len(self._buffer) < _LENGTH_BYTES + size:
                break
            frames.append(self._decoder.decode(bytes(self._buffer[_LENGTH_BYTES : _LENGTH_BYTES + size])))
            del self._buffer[: _LENGTH_BYTES + size]
        return frames
