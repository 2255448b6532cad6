"""Features of a few images, short enough to be kept in git: a random projection to 16 numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DIMENSIONS = 16
DIGITS = 4  # significant; a projection of noise needs no more
SEED = 20_251_101


def project(features: npt.NDArray[np.float16]) -> list[list[float]]:
    """Features [N, D] to N lists of DIMENSIONS numbers, distances kept roughly (Johnson and Lindenstrauss 1984).

    The same feature gives the same numbers, whichever others it comes with.
    """
    generator = np.random.Generator(np.random.PCG64(SEED))
    directions = generator.standard_normal((features.shape[1], DIMENSIONS)) / DIMENSIONS**0.5
    # One row at a time: a product of many rows may add them up in another order.
    projected = [row.astype(np.float64) @ directions for row in features]
    return [[float(f"{value:.{DIGITS}g}") for value in row] for row in projected]
