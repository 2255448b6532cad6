"""Whether an exported model says what the evaluated one said."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
LEAST = 0.995  # share of the images that must get the same class
LEAST_OF = {"litert_int8": 0.98}  # eight bits a number


def compare(
    format_: str, evaluated: Floats, answered: Floats, size: int, temperature: float | None = None
) -> dict[str, Any]:
    """The certificate of a format, from probabilities [N, C] of the same N >= 1 images; `size` is in bytes.

    `agreement` is the share of images whose likeliest class is the same; an answer that is no number agrees with
    nothing. `largest_gap` is that of a probability, None where an answer is no number or has another shape.
    `temperature` is what the format's logits and those behind `evaluated` were divided by; None leaves it out.
    """
    least = LEAST_OF.get(format_, LEAST)
    fits = answered.shape == evaluated.shape
    finite = np.isfinite(answered).all(axis=1) if fits else np.zeros(len(evaluated), np.bool_)
    same = (answered.argmax(1) == evaluated.argmax(1)) & finite if fits else finite
    agreement = float(same.mean())
    return {
        "images": len(evaluated),
        "agreement": agreement,
        "least_agreement": least,
        # Rounded, so that what one machine rounds otherwise in the last bit is the same certificate.
        "largest_gap": round(float(np.abs(answered - evaluated).max()), 4) if finite.all() else None,
        "bytes": size,
        "published": agreement >= least,
        **({} if temperature is None else {"temperature": temperature}),
    }


def refusal(format_: str, found: dict[str, Any]) -> str:
    """Why a format is not published, in one line."""
    return (
        f"{format_} names the same class for {found['agreement']:.2%} of {found['images']:,} test images, and "
        f"{found['least_agreement']:.1%} are asked for: not published"
    )
