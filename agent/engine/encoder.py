"""The part of llama.cpp's C API that turns texts into vectors.

An encoder reads a text in one piece: llama.cpp ends the process when one is longer than the step that was set up
(`n_ubatch`), and reads outside of its tables when it has more positions than the model. So `Encoder` counts first.
"""

import statistics
import time
import unicodedata

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib

from agent.engine.llama import Abort, LoadError, Model

Vectors = npt.NDArray[np.float32]

MAX_TEXTS = 64  # of one step
CANARY_TOKENS = 16
CANARY_STEPS = 3


class Encoder:
    """A context that reads whole texts. One thread owns it."""

    def __init__(self, model: Model, abort: Abort, *, text_tokens: int, threads: int) -> None:
        """`text_tokens` is the most that one text, or one step, may have."""
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = text_tokens
        params.n_seq_max = MAX_TEXTS
        params.kv_unified = True  # else the texts of a step would share out `n_ctx` beforehand
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = True
        params.no_perf = True
        # What the model was trained with; models that do not say are mostly trained with the mean.
        if (model.metadata(f"{model.metadata('general.architecture')}.pooling_type") or "0") == "0":
            params.pooling_type = lib.LLAMA_POOLING_TYPE_MEAN
        self.pointer = lib.llama_init_from_model(model.pointer, params)
        if not self.pointer:
            raise LoadError(f"llama.cpp cannot make an encoder for {text_tokens} tokens")
        if lib.llama_pooling_type(self.pointer) == lib.LLAMA_POOLING_TYPE_RANK:
            raise LoadError("it ranks texts and gives no vectors")
        self.text_tokens = text_tokens
        self._model = model
        self._width = lib.llama_model_n_embd_out(model.pointer)
        self._batch = lib.llama_batch_init(text_tokens, 0, 1)
        abort.stops(self.pointer)
        self._abort = abort  # llama.cpp has its address
        settings = [model.metadata(f"tokenizer.ggml.normalizer.{key}") for key in ("strip_accents", "lowercase")]
        strips = next((setting for setting in settings if setting), "true")  # llama.cpp's defaults
        self._strips_accents = model.metadata("tokenizer.ggml.model") == "bert" and strips == "true"
        self._empty = self._tokenize("")

    def tokenize(self, text: str, *, truncate: bool = False) -> list[int]:
        """The tokens of a text with the model's marks for beginning and end; text that looks like one stays text.

        With `truncate` at most `text_tokens`, the end mark still there.
        """
        tokens = self._tokenize(text)
        if truncate and len(tokens) > self.text_tokens:
            end = tokens[-1:] if self._empty and tokens[-1] == self._empty[-1] else []
            tokens = tokens[: self.text_tokens - len(end)] + end
        return tokens

    def set_threads(self, threads: int) -> None:
        """From the next step on so many threads compute."""
        lib.llama_set_n_threads(self.pointer, threads, threads)

    def encode(self, texts: list[list[int]]) -> Vectors | None:
        """One vector of length 1 for each text, as rows; None when it was aborted.

        Raises:
            RuntimeError: too many texts or tokens, or llama.cpp could not compute them.
        """
        count = sum(map(len, texts))
        if not 0 < count <= self.text_tokens or len(texts) > MAX_TEXTS or not all(texts):
            raise RuntimeError(f"a step of {len(texts)} texts with {count} tokens")
        batch = self._batch
        batch.n_tokens = count
        row = 0
        for sequence, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                batch.token[row] = token
                batch.pos[row] = position
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = sequence
                batch.logits[row] = True
                row += 1
        code = lib.llama_encode(self.pointer, batch)
        if code == 2:
            return None
        if code != 0:
            raise RuntimeError(f"llama_encode returned {code}")
        return np.stack([self._vector(sequence) for sequence in range(len(texts))])

    def canary(self) -> float:
        """Encodes a few tokens; returns tokens a second. When some flag makes llama.cpp crash here, it crashes now."""
        count = min(CANARY_TOKENS, self.text_tokens)
        times = []
        for _ in range(CANARY_STEPS):
            started = time.monotonic()
            self.encode([[number % 64 for number in range(count)]])
            times.append(time.monotonic() - started)
        return count / statistics.median(times)

    def _vector(self, sequence: int) -> Vectors:
        pointer = lib.llama_get_embeddings_seq(self.pointer, sequence)
        if not pointer:
            raise RuntimeError(f"text {sequence} has no vector")
        vector = np.ctypeslib.as_array(pointer, shape=(self._width,))
        length = float(np.linalg.norm(vector))
        if not 0 < length < np.inf:
            raise RuntimeError(f"text {sequence} has a vector of length {length}")
        return np.asarray(vector / length, dtype=np.float32)

    def _tokenize(self, text: str) -> list[int]:
        if self._strips_accents:
            # llama.cpp does this too, but not for Korean, whose syllables then are unknown words.
            text = unicodedata.normalize("NFD", text)
        return self._model.tokenize(text, special=False, marks=True)
