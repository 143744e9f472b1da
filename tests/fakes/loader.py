"""A process that gives files to llama.cpp as they are: `python -m tests.fakes.loader BASE`.

Each line on its input is "base PATH" or "adapter PATH" (for BASE). It loads the file, turns a text into tokens, decodes
them and a few more, and answers "loaded" or "refused"; or it dies, which is what the caller wants to know.
"""

import ctypes
import sys
from typing import Any

from llama_cpp import llama_cpp as lib

TEXT = "ab cd! Grüße 東京 \U0001f600 <|im_end|>".encode() + bytes(range(256))


def load(path: str) -> Any:
    """A model, or a pointer that is NULL."""
    params = lib.llama_model_default_params()
    params.use_extra_bufts = True
    return lib.llama_model_load_from_file(path.encode(), params)


def decode(model: Any, adapter: Any = None) -> bool:
    """Tokenises a text and decodes it in one batch, then 4 single tokens; False when llama.cpp refuses."""
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 128, 64, 64, 2
    params.n_threads = params.n_threads_batch = 1
    context = lib.llama_init_from_model(model, params)
    if not context:
        return False
    if adapter:
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
    vocab = lib.llama_model_get_vocab(model)
    num_vocab = lib.llama_vocab_n_tokens(vocab)
    tokens = (lib.llama_token * 1024)()
    count = lib.llama_tokenize(vocab, TEXT, len(TEXT), tokens, 1024, True, True)
    piece = ctypes.create_string_buffer(64)
    batch = lib.llama_batch_init(64, 0, 1)
    rows = list(tokens[: max(0, min(count, 64))]) or [0]
    position, fine = 0, True
    for _ in range(5):
        batch.n_tokens = len(rows)
        for i, token in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = (
                token,
                position + i,
                1,
                i + 1 == len(rows),
            )
            batch.seq_id[i][0] = 0
        fine = lib.llama_decode(context, batch) == 0
        if not fine:
            break
        position += len(rows)
        logits = lib.llama_get_logits_ith(context, -1)
        best = max(range(num_vocab), key=lambda token: logits[token]) if logits else 0  # an encoder has none
        lib.llama_token_to_piece(vocab, best, piece, 64, 0, True)
        rows = [best]
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    return fine


def main() -> None:
    """Serves lines until the input ends."""
    silence = lib.llama_log_callback(lambda *_: None)
    lib.llama_log_set(silence, ctypes.c_void_p(0))
    lib.llama_backend_init()
    base = load(sys.argv[1])
    for line in sys.stdin:
        kind, path = line.rstrip("\n").split(" ", 1)
        if kind == "base":
            model = load(path)
            fine = bool(model) and decode(model)
            if model:
                lib.llama_model_free(model)
        else:
            adapter = lib.llama_adapter_lora_init(base, path.encode())
            fine = bool(adapter) and decode(base, adapter)
            if adapter:
                lib.llama_adapter_lora_free(adapter)
        sys.stdout.write("loaded\n" if fine else "refused\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
