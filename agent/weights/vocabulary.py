"""A model's vocabulary: what llama.cpp asserts of it while loading and what it needs while turning text into tokens."""

import struct

from agent.weights.gguf import ArrayInfo, Data, GgufFile, Number, strings_of

# Special tokens that llama.cpp puts around a text and asserts to be there, with the number where the file gives none.
# Not among the tokenizers: "t5", whose character map can throw through the C API; "rwkv", which asserts a newline
# token; and models without a vocabulary.
_SURROUNDING: dict[str, dict[str, int | None]] = {
    "gpt2": {"bos_token_id": 11, "eos_token_id": 11},
    "llama": {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0},
    "bert": {"bos_token_id": 101, "seperator_token_id": 102, "unknown_token_id": 100},  # spelled so
    "gemma4": {"bos_token_id": None, "eos_token_id": None},
}
_BYTE = 6  # LLAMA_TOKEN_TYPE_BYTE


def check_vocabulary(file: GgufFile, data: Data) -> int:
    """The number of tokens. `data` are the bytes that `file` was read from.

    Raises:
        GgufError: llama.cpp would abort with this vocabulary, or answer nonsense.
    """
    tokenizer = file.metadata.get("tokenizer.ggml.model")
    if not isinstance(tokenizer, str) or tokenizer not in _SURROUNDING:
        raise file.wrong(f"its tokenizer is {tokenizer!r}; known are {', '.join(_SURROUNDING)}")
    texts = _array(file, "tokens", "[string]")
    count = _length(texts)
    if not isinstance(texts, ArrayInfo) or not count:
        raise file.wrong("tokenizer.ggml.tokens is missing")
    kinds = _array(file, "token_type", "[i32]")
    for key, array in (("token_type", kinds), ("scores", _array(file, "scores", "[f32]", "[i32]"))):
        if array is not None and _length(array) != count:
            raise file.wrong(f"tokenizer.ggml.{key} has {_length(array)} elements for {count} tokens")
    if tokenizer in ("gpt2", "gemma4") and _array(file, "merges", "[string]") is None:
        raise file.wrong("tokenizer.ggml.merges is missing")
    for key, default in _SURROUNDING[tokenizer].items():
        token = file.metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(token, int) or not 0 <= token < count:
            raise file.wrong(f"tokenizer.ggml.{key} is {token!r}, but there are {count} tokens")
    if isinstance(kinds, ArrayInfo):
        kinds = struct.unpack_from(f"<{count}i", data, kinds.offset)
    if tokenizer == "bert" and _BYTE in (kinds or ()):
        raise file.wrong("it has byte tokens, which llama.cpp cannot spell with the tokenizer bert")
    _check_texts(file, tokenizer, strings_of(data, texts))
    return count


def _array(file: GgufFile, key: str, *kinds: str) -> ArrayInfo | tuple[Number, ...] | None:
    """An array of the tokenizer, of one of these types; None where there is none."""
    name = f"tokenizer.ggml.{key}"
    value = file.metadata.get(name)
    if value is None:
        return None
    if not isinstance(value, ArrayInfo | tuple) or file.types[name] not in kinds:
        raise file.wrong(f"{name} is {file.types[name]}, not {' or '.join(kinds)}")
    return value


def _length(array: ArrayInfo | tuple[Number, ...] | None) -> int:
    return array.length if isinstance(array, ArrayInfo) else len(array or ())


def _check_texts(file: GgufFile, tokenizer: str, texts: list[bytes]) -> None:
    """llama.cpp asserts that texts are unique, after it has cut them at a NUL and named the empty ones."""
    known = set(texts)
    if b"" in known or any(b"\0" in text for text in known):
        cut = [text.partition(b"\0")[0] for text in texts]
        known = {text or b"[EMPTY_%d]" % number for number, text in enumerate(cut)}
    if len(known) != len(texts):
        raise file.wrong(f"{len(texts) - len(known)} of its {len(texts)} tokens are there twice")
    if tokenizer == "llama":
        # What no token covers is spelled in bytes; where a byte has no token, an exception ends the process.
        missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in known and bytes([byte]) not in known]
        if missing:
            raise file.wrong(f"its vocabulary has no token for {len(missing)} of 256 bytes, first {missing[0]}")
