"""Whether an adapter may be used with a base model, by how it did in its test on that very file. Pure.

An adapter that was trained on one variant of a model loads on another and may answer a third of its questions wrongly
there, without a word. So its file can bring the scores that it had, and what falls behind is not used.
"""

from collections.abc import Mapping

from contract.variants import TOLERANCE


def unfit_bases(scores: Mapping[str, float]) -> list[str]:
    """Digests of the bases on which an adapter failed its test."""
    return [base for base, score in scores.items() if score < max(scores.values()) - TOLERANCE]


def obstacle(
    trained_on: str, scores: Mapping[str, float], base_sha256: str, *, allow_unfit: bool = False
) -> str | None:
    """Why an adapter should not be used with a base, or None. `scores` are from 0 to 1, by the base's digest."""
    score = scores.get(base_sha256)
    if score is None:
        if base_sha256 == trained_on:
            return None
        return f"it is for the base {trained_on}, this is {base_sha256}"
    if allow_unfit or base_sha256 not in unfit_bases(scores):
        return None
    best, best_score = max(scores.items(), key=lambda item: item[1])
    return (
        f"it is unfit for the base {base_sha256}: it had {score:.3f} in its test there and {best_score:.3f} on {best};"
        " [store] allow_unfit lets it"
    )
