"""f16 to f32."""

import numpy as np

from agent.engine.half import as_f32

ALL = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_every_number_stays_what_it_is() -> None:
    """Zeros of both signs, subnormal ones, infinities and NaN among them."""
    np.testing.assert_array_equal(as_f32(ALL), ALL.astype(np.float32))
    assert np.signbit(as_f32(ALL)).tolist() == np.signbit(ALL).tolist()


def test_any_array_is_taken() -> None:
    """Of two dimensions, with gaps between its rows, empty, or of f32 already."""
    square = ALL[: 64 * 64].reshape(64, 64)
    for some in (square, square[:, :8], square[:0], square.astype(np.float32)):
        result = as_f32(some)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, some.astype(np.float32))
