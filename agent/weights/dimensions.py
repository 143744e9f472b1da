"""The sizes that a model's metadata states, within what llama.cpp asserts of them (llama-model.cpp, load_hparams)."""

import math

import msgspec

from agent.weights.gguf import GgufFile

MAX_LAYERS = 511  # LLAMA_MAX_LAYERS is 512, and the adapter router takes one
MAX_EXPERTS = 1024
MAX_LENGTH = 1 << 20  # of an embedding or a feed-forward row; the largest models have 53,248
MAX_CONTEXT_TOKENS = 1 << 24
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


class Dimensions(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a model; tuples have one number for each layer. Heads are 0 where a model has no attention."""

    num_layers: int
    embedding_length: int
    ffn_lengths: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_kv_heads: tuple[int, ...]
    head_k_length: int
    head_v_length: int
    rope_length: int
    trained_context_tokens: int
    num_experts: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Key and value of one token in all layers, as f16. Too much for models with sliding windows."""
        return sum(self.num_kv_heads) * (self.head_k_length + self.head_v_length) * 2


def read_dimensions(file: GgufFile, architecture: str) -> Dimensions:
    """The sizes, checked.

    Raises:
        GgufError: one is missing, of another type than llama.cpp reads, or would make it abort.
    """
    keys = _Keys(file, architecture)
    layers = keys.count("block_count", 1, MAX_LAYERS)
    embedding = keys.count("embedding_length", 1, MAX_LENGTH)
    heads = keys.per_layer("attention.head_count", layers, 0)
    head = embedding // heads[0] if heads[0] else 0
    head_k = keys.count("attention.key_length", 1, MAX_LENGTH, default=head)
    experts = keys.count("expert_count", 0, MAX_EXPERTS, default=0)
    used = max(keys.per_layer("expert_used_count", layers, 0))
    if used > experts or (experts and not used):
        raise file.wrong(f"it uses {used} of {experts} experts")
    keys.check_rope()
    return Dimensions(
        num_layers=layers,
        embedding_length=embedding,
        ffn_lengths=keys.per_layer("feed_forward_length", layers, 0),
        num_heads=heads,
        num_kv_heads=keys.per_layer("attention.head_count_kv", layers, heads),
        head_k_length=head_k,
        head_v_length=keys.count("attention.value_length", 1, MAX_LENGTH, default=head),
        rope_length=keys.count("rope.dimension_count", 0, MAX_LENGTH, default=head_k),
        trained_context_tokens=keys.count("context_length", 1, MAX_CONTEXT_TOKENS),
        num_experts=experts,
    )


class _Keys:
    """Metadata of one architecture, by the rest of the key."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file = file
        self._prefix = architecture + "."

    def count(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A u32 from `low` to `high`, or the default where there is none."""
        name = self._prefix + key
        value = self._file.metadata.get(name, default)
        if value is None:
            raise self._file.wrong(f"{name} is missing")
        if not isinstance(value, int) or self._file.types.get(name, "u32") != "u32":
            raise self._file.wrong(f"{name} is {self._file.types[name]}, not u32")
        if name in self._file.metadata and not low <= value <= high:
            raise self._file.wrong(f"{name} is {value}; {low} to {high} are allowed")
        return value

    def per_layer(self, key: str, layers: int, default: int | tuple[int, ...]) -> tuple[int, ...]:
        """A u32 for all layers, or an array with one number for each."""
        name = self._prefix + key
        if self._file.types.get(name, "u32") == "u32":
            if name not in self._file.metadata and isinstance(default, tuple):
                return default
            return (self.count(key, 0, MAX_LENGTH, default if isinstance(default, int) else None),) * layers
        values = self._file.metadata[name]
        if self._file.types[name] not in ("[u32]", "[i32]") or not isinstance(values, tuple):
            raise self._file.wrong(f"{name} is {self._file.types[name]}, neither u32 nor an array of it")
        if len(values) != layers or not all(0 <= number <= MAX_LENGTH for number in values):
            raise self._file.wrong(
                f"{name} has {len(values)} numbers up to {max(values, default=0)} for {layers} layers"
            )
        return tuple(int(number) for number in values)

    def check_rope(self) -> None:
        """How positions are computed."""
        file, prefix = self._file, self._prefix
        scaling = file.metadata.get(prefix + "rope.scaling.type", "none")
        if scaling not in ROPE_SCALINGS:
            raise file.wrong(f"{prefix}rope.scaling.type is {scaling!r}; known are {', '.join(ROPE_SCALINGS)}")
        for key in ("rope.freq_base", "rope.scaling.factor", "rope.scale_linear"):
            value = file.metadata.get(prefix + key, 1.0)
            if not isinstance(value, float) or not 0 < value < math.inf:
                raise file.wrong(f"{prefix}{key} is {value!r}; it must be a number above 0")
        for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
            value = file.metadata.get(prefix + key, 0.0)
            if not isinstance(value, float) or not 0 <= value < 1:  # ggml asserts the first half
                raise file.wrong(f"{prefix}{key} is {value!r}; 0 to 1 is allowed")
