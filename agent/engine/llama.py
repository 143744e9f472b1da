"""The part of llama.cpp's C API that the engine uses, with its traps closed.

Every pointer that comes back is tested for NULL (a NULL is a falsy object here, never None), every buffer has its size
checked, and contexts are closed before their model. One thread owns a context.
"""

import ctypes
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as lib

from agent.engine.kv_state import ROOM_BYTES, Bytes, StateError, of_one_stream, of_streams
from agent.engine.row import Logits

# llama.cpp asks this between the nodes of a graph whether to stop. A Python callback costs 0.14 ms a decode and
# waits for the interpreter lock. libc's strlen has the right shape: it reads the byte that `Abort.set` sets
# and returns 0 for an empty string (go on) or 1 (stop), at no cost.
_strlen = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)

# enum llama_token_attr in llama.h; the binding has only the comment.
_ATTR_UNUSED = 1 << 1
_ATTR_CONTROL = 1 << 3

_log_lines: list[str] = []


def _keep_log(level: int, text: bytes, _: Any) -> None:
    if level >= 3 and len(_log_lines) < 50:  # warnings and errors, while loading
        _log_lines.append(text.decode(errors="replace").strip())


_log_callback = lib.llama_log_callback(_keep_log)


class LoadError(Exception):
    """llama.cpp refuses the model file or the context."""


class Model:
    """A loaded base model, from one file or from shards in their order."""

    def __init__(self, *files: str, use_extra_bufts: bool, use_mmap: bool) -> None:
        lib.llama_log_set(_log_callback, ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.use_extra_bufts = use_extra_bufts
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if use_mmap else lib.LLAMA_LOAD_MODE_NONE
        paths = (ctypes.c_char_p * len(files))(*(file.encode() for file in files))
        self.pointer = (
            lib.llama_model_load_from_splits(paths, len(files), params)
            if len(files) > 1
            else lib.llama_model_load_from_file(paths[0], params)
        )
        if not self.pointer:
            raise LoadError(" · ".join(_log_lines[-3:]) or "llama.cpp refuses the file")
        self.vocab = lib.llama_model_get_vocab(self.pointer)
        self.num_vocab = lib.llama_vocab_n_tokens(self.vocab)
        self.trained_context_tokens = lib.llama_model_n_ctx_train(self.pointer)
        self.head_size = lib.llama_model_n_embd(self.pointer) // max(1, lib.llama_model_n_head(self.pointer))
        # Its memory of a sequence is one state, which each step replaces (mamba, rwkv; in part: granite-hybrid, lfm2).
        self.is_recurrent = lib.llama_model_is_recurrent(self.pointer) or lib.llama_model_is_hybrid(self.pointer)
        self.bos = lib.llama_vocab_bos(self.vocab)
        self.eos = lib.llama_vocab_eos(self.vocab)
        # Where samplers work: one row of candidates for all, because one thread samples one row at a time.
        self.candidates = np.zeros(self.num_vocab, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self.scratch = np.empty(self.num_vocab, dtype=np.float32)
        self._pieces: dict[tuple[int, bool], bytes] = {}
        if not lib.llama_model_has_decoder(self.pointer) or lib.llama_model_has_encoder(self.pointer):
            raise LoadError("it is not a decoder-only text model")

    def metadata(self, key: str) -> str | None:
        """A metadata value of the GGUF file as text, or None."""
        size = lib.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        lib.llama_model_meta_val_str(self.pointer, key.encode(), buffer, size + 1)
        return buffer.value.decode(errors="replace")

    def tokenize(self, text: str, *, special: bool, marks: bool = False) -> list[int]:
        """Tokens of `text`. With `special` off, text that looks like a control token stays text.

        With `marks`, the model's own tokens for beginning and end are put around it.
        """
        raw = text.encode("utf-8", errors="replace")
        room = len(raw) + 8
        tokens = (lib.llama_token * room)()
        count = lib.llama_tokenize(self.vocab, raw, len(raw), tokens, room, marks, special)
        if count < 0:
            room = -count
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self.vocab, raw, len(raw), tokens, room, marks, special)
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of a token. `token` must be below `num_vocab`."""
        known = self._pieces.get((token, special))
        if known is None:
            room = ctypes.create_string_buffer(512)  # not shared: slots are made in a thread of their own
            size = lib.llama_token_to_piece(self.vocab, token, room, len(room), 0, special)
            known = self._pieces[token, special] = room.raw[: max(0, size)]
        return known

    def is_control(self, token: int) -> bool:
        """Whether text never becomes this token: it is a control token, or one that the vocabulary does not use."""
        return bool(lib.llama_vocab_get_attr(self.vocab, token) & (_ATTR_UNUSED | _ATTR_CONTROL))

    def ends(self, token: int) -> bool:
        """Whether `token` ends generation."""
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def close(self) -> None:
        """Frees the model. All contexts and samplers must be closed before."""
        lib.llama_model_free(self.pointer)


class Abort:
    """Stops what is being computed, in all contexts of the engine."""

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self.pointer = ctypes.cast(self._flag, ctypes.c_void_p)

    def set(self) -> None:
        """Stops the decode that runs now, or the next one. For any thread."""
        self._flag[0] = b"\x01"

    def clear(self) -> None:
        """Lets the next decode run."""
        self._flag[0] = b"\x00"

    def stops(self, context: Any) -> None:
        """From now on it stops what this context of llama.cpp's computes, which has its address then."""
        lib.llama_set_abort_callback(context, _strlen, self.pointer)


class Context:
    """Key-value memory for `parallel` sequences of `context_tokens` each, and the batch that feeds it."""

    def __init__(
        self, model: Model, abort: Abort, *, context_tokens: int, parallel: int, batch_tokens: int, threads: int
    ) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = context_tokens * parallel
        params.n_seq_max = parallel
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        params.no_perf = True
        self.pointer = lib.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise LoadError(f"llama.cpp cannot make a context of {context_tokens * parallel} tokens")
        self.context_tokens = lib.llama_n_ctx_seq(self.pointer)
        self.batch_tokens = batch_tokens
        self.parallel = parallel
        self.head_size = model.head_size
        self._row = ctypes.c_float * model.num_vocab
        self._memory = lib.llama_get_memory(self.pointer)
        self._batch = lib.llama_batch_init(batch_tokens, 0, 1)
        self._abort = abort  # llama.cpp has its address
        # A recurrent state cannot go back to before a step, and a step also moves states of sequences that are not in
        # it: stopped half-way, it leaves them spoilt. There a step runs to its end.
        if not model.is_recurrent:
            abort.stops(self.pointer)

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> bool:
        """Computes rows of (token, position, sequence, wants logits); False when it was aborted.

        After an abort the caller drops what the rows had written with `truncate`.

        Raises:
            RuntimeError: llama.cpp could not compute the batch.
        """
        if not 0 < len(rows) <= self.batch_tokens:
            raise RuntimeError(f"a batch of {len(rows)} rows; 1 to {self.batch_tokens} fit")
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        code = lib.llama_decode(self.pointer, batch)
        if code not in (0, 2):
            raise RuntimeError(f"llama_decode returned {code}")
        return bool(code == 0)

    def logits(self, row: int) -> Logits:
        """The logits of a row that wanted them, valid until the next decode."""
        pointer = lib.llama_get_logits_ith(self.pointer, row)
        if not pointer:
            raise RuntimeError(f"row {row} has no logits")
        # numpy's own way from a pointer makes a type each time, 0.07 ms.
        return np.frombuffer(self._row.from_address(ctypes.addressof(pointer.contents)), np.float32)

    def truncate(self, sequence: int, position: int) -> bool:
        """Forgets a sequence from `position` on; False where the memory cannot be cut (recurrent models)."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def keep(self, sequence: int, num_tokens: int) -> int:
        """Forgets a sequence but for its first tokens; returns how many are kept.

        None are where the memory cannot be cut (recurrent models) or has moved on (sliding windows).
        """
        starts_at_0 = lib.llama_memory_seq_pos_min(self._memory, sequence) == 0
        if num_tokens and starts_at_0 and lib.llama_memory_seq_rm(self._memory, sequence, num_tokens, -1):
            return num_tokens
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def save(self, sequence: int) -> Bytes:
        """A copy of a sequence's memory: half a millisecond for 512 tokens of a 135M model.

        Copying inside of llama.cpp moves the room of a whole sequence, however little of it is used: 8 ms.

        Raises:
            StateError: there is nothing to save.
        """
        size = lib.llama_state_seq_get_size(self.pointer, sequence)
        state = np.empty(size + ROOM_BYTES, dtype=np.uint8)
        state[size:] = 0
        if lib.llama_state_seq_get_data(self.pointer, _pointer_to(state), size, sequence) != size:
            raise StateError("llama.cpp cannot save a sequence")
        return of_one_stream(state)

    def load(self, sequence: int, state: Bytes) -> None:
        """Puts a saved memory in the place of a sequence's.

        Raises:
            StateError: llama.cpp does not take it; the sequence is empty then.
        """
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        raw = of_streams(state, self.parallel)
        if not lib.llama_state_seq_set_data(self.pointer, _pointer_to(raw), raw.size, sequence):
            lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            raise StateError("llama.cpp cannot take a saved state")

    def set_threads(self, threads: int) -> None:
        """From the next decode on so many threads compute."""
        lib.llama_set_n_threads(self.pointer, threads, threads)

    def set_adapter(self, adapter: Any | None) -> None:
        """Applies a `PlainAdapter`'s pointer, or none, to what is decoded from now on."""
        pointers = (lib.llama_adapter_lora_p_ctypes * 1)(adapter) if adapter else None
        scales = (ctypes.c_float * 1)(1.0) if adapter else None
        if lib.llama_set_adapters_lora(self.pointer, pointers, 1 if adapter else 0, scales) != 0:
            raise RuntimeError("llama.cpp cannot apply an adapter")

    def close(self) -> None:
        """Frees the context; its model stays."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self.pointer)


def _pointer_to(data: Bytes) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
