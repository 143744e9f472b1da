"""JSON as nobody should send it, for property tests."""

from typing import Any

from hypothesis import strategies as st

# Names and texts that parsers, paths in error messages and grammars stumble over.
ODD_TEXTS = st.sampled_from(
    ["", " ", "\n", "\0", "a\nb", '"', "\\", "`", " - at `$.prompt`", "$ref", "a.b", "a/b", "[0]", "~0", "é", "🦈"]
)
TEXTS = ODD_TEXTS | st.text(max_size=12)
NUMBERS = (
    st.integers(-3, 300)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, -0.0, 1e308, 2**31, 2**53, 2**63, -(2**63) - 1, 2**64, 10**30])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS


def values(keys: st.SearchStrategy[str] = TEXTS, max_leaves: int = 12) -> st.SearchStrategy[Any]:
    """Any JSON value; its objects have keys from `keys`."""
    return st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=max_leaves,
    )
