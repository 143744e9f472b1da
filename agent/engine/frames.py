"""What daemon and engine say to each other: msgpack, each frame behind its length in 4 bytes."""

from typing import Any, Literal

import msgspec

MAX_FRAME_BYTES = 8 * 1024 * 1024
# A step's prompt tokens. Small steps keep other streams fluent and let an abort, which takes effect between the
# nodes of a step's graph, come through fast; larger ones gain little speed on a processor.
BATCH_TOKENS = 128
_LENGTH_BYTES = 4


class Load(msgspec.Struct, frozen=True, kw_only=True, tag="load"):
    """Daemon to engine, first frame: what to load and how.

    `cache_dir` is where the weights in the form that adapter slots need are kept, under the model's digest;
    `address_space_bytes` is a limit, 0 for none; `chat_template` takes the place of the file's own.
    """

    file: str
    sha256: str = ""
    context_tokens: int
    parallel: int
    threads: int
    flags: dict[str, bool]
    prefix_cache_bytes: int = 0
    cache_dir: str = ""
    address_space_bytes: int = 0
    chat_template: str | None = None


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = {}


Activation = Literal["prompt", "user"]


class Adapter(msgspec.Struct, frozen=True, tag="adapter"):
    """Daemon to engine: a LoRA that jobs may name from now on.

    Its file descriptor comes through the second socket, one for each of these frames, in their order.
    """

    sha256: str


class MakeSlots(msgspec.Struct, frozen=True, tag="make_slots"):
    """Daemon to engine: load what lets so many adapters decode in one batch; `Slots` answers."""

    num_slots: int


class Forget(msgspec.Struct, frozen=True, tag="forget"):
    """Daemon to engine: no further job names this adapter, until it is sent again."""

    sha256: str


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Daemon to engine: answer this. `resume` are tokens an engine that died had already sent for it.

    `activation` is from where the adapter acts: the whole prompt, or the last user turn; what stands before that is
    computed by the base alone and shared by all adapters. None: what the adapter's file says.
    Of more than `Load.parallel` jobs (at most twice as many) those of the highest `priority` run, the others pause.
    """

    job: int
    turns: list[tuple[str, str]]
    sampling: Sampling
    max_tokens: int
    stops: list[str] = []
    output_schema: dict[str, Any] | None = None
    deadline_ms: float
    priority: int = 4
    adapter: str | None = None
    activation: Activation | None = None
    resume: list[int] = []


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Daemon to engine: turn each text into a vector. With `truncate` long ones are cut, else the job is refused."""

    job: int
    texts: list[str]
    truncate: bool = False
    deadline_ms: float
    priority: int = 4


class Score(msgspec.Struct, frozen=True, kw_only=True, tag="score"):
    """Daemon to engine: how probable is this `text`, or this conversation as the chat template has it?

    For an engine that answers nobody: it does nothing else meanwhile. The adapter acts on all of it. `num_decode`
    tokens are then computed one by one, to see how fast that is.
    """

    job: int
    text: str = ""
    turns: list[tuple[str, str]] = []
    adapter: str | None = None
    num_decode: int = 0


class Judge(msgspec.Struct, frozen=True, kw_only=True, tag="judge"):
    """Daemon to engine: does a text fit these JSON schemas?"""

    job: int
    text: str
    schemas: list[dict[str, Any]]


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
    network_isolated: bool = False


class Slots(msgspec.Struct, frozen=True, kw_only=True, tag="slots"):
    """Engine to daemon: different adapters now decode in one batch, or `problem` says why they take turns."""

    num_slots: int
    problem: str = ""


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


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    """Engine to daemon: a job's vectors, of length 1, each as 32-bit floats of this machine."""

    job: int
    vectors: list[bytes]
    prompt_tokens: int


class Scored(msgspec.Struct, frozen=True, kw_only=True, tag="scored"):
    """Engine to daemon: `nats` is minus the logarithm of the probability of all tokens that have one before them.

    It is None when a logit is no finite number. `unknown_marks` counts marks such as <|im_end|> that the chat template
    writes and that are no tokens of their own here; it `lacks_marks` when it writes none of the model's control tokens
    and the template in the model's file does. `decode_tok_s` is of the faster steps.
    """

    job: int
    num_tokens: int
    nats: float | None
    unknown_marks: int = 0
    lacks_marks: bool = False
    decode_tok_s: float | None = None


class Judged(msgspec.Struct, frozen=True, tag="judged"):
    """Engine to daemon: whether it fits, in the order of the schemas."""

    job: int
    fits: list[bool]


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


ToEngine = Load | Adapter | MakeSlots | Forget | Generate | Embed | Score | Judge | Cancel | Ping
OfJob = Tokens | Done | Embedded | Scored | Judged | Rejected
FromEngine = Ready | Slots | OfJob | Pong | Broken

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
