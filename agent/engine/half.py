"""Numbers of f16 as f32.

numpy converts them one by one, 2 ms for the 2.4 MB of an adapter's B; ggml has the processor do it, in 0.1 ms.
"""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import _ggml

# Of ggml-cpu.h. The binding calls its module internal; `pyproject.toml` pins its version.
_convert = _ggml.libggml.ggml_cpu_fp16_to_fp32
_convert.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
_convert.restype = None


def as_f32(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The same numbers as f32, converted if they are f16."""
    if numbers.dtype != np.float16 or not numbers.flags.c_contiguous:
        return numbers.astype(np.float32, copy=False)
    converted = np.empty(numbers.shape, np.float32)
    _convert(numbers.ctypes.data, converted.ctypes.data, numbers.size)
    return converted
