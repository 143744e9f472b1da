"""A model file in another number format, made by llama.cpp."""

from pathlib import Path

from llama_cpp import llama_cpp as lib

from agent.errors import ModelError

FILE_TYPES: dict[str, int] = {
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": lib.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q5_0": lib.LLAMA_FTYPE_MOSTLY_Q5_0,
    "Q5_1": lib.LLAMA_FTYPE_MOSTLY_Q5_1,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K_M": lib.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q5_K_M": lib.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q6_K": lib.LLAMA_FTYPE_MOSTLY_Q6_K,
}


def quantize(source: Path, target: Path, kind: str, num_threads: int) -> None:
    """Writes a model in another format, also where it was quantised before, which loses more than from its origin.

    Raises:
        ModelError: there is no such format, or llama.cpp cannot do it; its words are on standard error.
    """
    if kind not in FILE_TYPES:
        raise ModelError(f"cannot make a variant {kind!r}: there are {', '.join(FILE_TYPES)}")
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[kind]
    params.allow_requantize = True
    params.nthread = num_threads
    if lib.llama_model_quantize(bytes(source), bytes(target), params) != 0:
        raise ModelError(f"cannot make {target}: llama.cpp says why above; is the disk full?")
