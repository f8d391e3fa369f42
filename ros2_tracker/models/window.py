"""The window that score maps are weighted with, for the tracking loop and for graphs that decode inside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hann_window(cells: int) -> NDArray[np.float32]:
    """Cells x cells outer product of a Hann window whose border is small but not zero (SPEC 1.5)."""
    one = np.hanning(cells + 2)[1:-1]
    return np.outer(one, one).astype(np.float32)
