"""The sentences and their vectors."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent


def sentences() -> list[str]:
    """A hundred texts of all kinds."""
    return (FOLDER / "sentences.txt").read_text("utf-8").split("\n")[:-1]


def reference_vectors() -> npt.NDArray[np.float64]:
    """What transformers makes of them with MiniLM's original weights, one row each, of length 1."""
    found: npt.NDArray[np.float64] = np.load(FOLDER / "vectors.npy").astype(np.float64)
    return found


def cosines(vectors: npt.ArrayLike, others: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The cosine of the angle between each row of one and the same row of the other."""
    a, b = np.asarray(vectors, dtype=np.float64), np.asarray(others, dtype=np.float64)
    found: npt.NDArray[np.float64] = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return found
