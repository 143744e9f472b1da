"""Variants of the base model: the file that is shipped, and what llama.cpp makes of it in other number formats."""

from pathlib import Path

from llama_cpp import llama_cpp as lib

SHIPPED = "Q4_1"
FILE_TYPES = {
    "Q4_0": lib.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q8_0": lib.LLAMA_FTYPE_MOSTLY_Q8_0,
    "F32": lib.LLAMA_FTYPE_ALL_F32,
}


def make_variant(base: Path, name: str, folder: Path) -> Path:
    """The base in another format; the file itself for the format that it has. A file that is there is kept."""
    if name == SHIPPED:
        return base
    path = folder / f"{base.name.removesuffix('.gguf').removesuffix(SHIPPED)}{name}.gguf"
    if not path.exists():
        params = lib.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[name]
        params.allow_requantize = True
        params.nthread = 2
        unfinished = path.with_suffix(".part")
        if lib.llama_model_quantize(bytes(base), bytes(unfinished), params) != 0:
            raise OSError(f"cannot make {path}: llama.cpp says why above; is the disk full?")
        unfinished.rename(path)
    return path
