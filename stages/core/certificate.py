"""Whether an exported model says what the evaluated one said."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
LEAST = 0.995  # share of the images that must get the same class
LEAST_OF = {"litert_int8": 0.98}  # eight bits a number
BOUND, BOUND_OF = "tolerance", {"litert_int8": "tolerance_int8"}  # parameters of export
MOST_SAID = 200  # characters of an error in a certificate
_OF_THIS_RUN = re.compile(r"[/\\]|0x[0-9a-f]|[0-9a-f]{8}|\d{4}|\btmp\w{5}", re.IGNORECASE)


def bound(format_: str) -> str:
    """Which parameter of export is the largest allowed difference of a probability in this format."""
    return BOUND_OF.get(format_, BOUND)


def compare(
    format_: str, evaluated: Floats, answered: Floats, size: int, tolerance: float, temperature: float | None = None
) -> dict[str, Any]:
    """The certificate of a format, from probabilities [N, C] of the same N >= 1 images; `size` is in bytes.

    `agreement` is the share of images whose likeliest class is the same; an answer that is no number agrees with
    nothing. `largest_gap` is that of a probability, None where an answer is no number or has another shape. To be
    published, a format needs the least agreement, and a gap, rounded to four places, of at most `tolerance`.
    `temperature` is what the format's logits and those behind `evaluated` were divided by; None leaves it out.
    Of a format that is not published, `why` says in one line why, as it does in `absent`.
    """
    least = LEAST_OF.get(format_, LEAST)
    fits = answered.shape == evaluated.shape
    finite = np.isfinite([answered, evaluated]).all(axis=(0, 2)) if fits else np.zeros(len(evaluated), np.bool_)
    same = (answered.argmax(1) == evaluated.argmax(1)) & finite if fits else finite
    agreement = float(same.mean())
    # Rounded, so that what one machine rounds otherwise in the last bit is the same certificate; the rounded figure
    # decides, so that nobody reads one within its bound beside a refusal.
    gap = round(float(np.abs(answered - evaluated).max()), 4) if finite.all() else None
    if agreement < least:
        why = _disagrees(agreement, len(evaluated), least)
    elif gap is None:
        why = f"gives no probabilities to compare for {(~finite).sum():,} of {len(evaluated):,} test images"
    else:
        why = _is_off(format_, gap, tolerance) if gap > tolerance else ""
    return {
        "images": len(evaluated),
        "agreement": agreement,
        "least_agreement": least,
        "largest_gap": gap,
        "tolerance": tolerance,
        "bytes": size,
        "published": not why,
        **({"why": why} if why else {}),
        **({} if temperature is None else {"temperature": temperature}),
    }


def absent(why: str) -> dict[str, Any]:
    """The certificate of a format that there is nothing to compare of; `why` follows its name, as in `refusal`."""
    return {"published": False, "why": why}


def refusal(format_: str, found: dict[str, Any]) -> str:
    """Why a format is not published, in one line."""
    return f"{format_} {found['why']}: not published"


def said(text: str) -> str:
    """What an error says, in one line that is the same in every run and names nothing of the machine.

    Words with a slash, as paths have, addresses and other long figures become "…", numbers by themselves (of
    processes, of lines, times) "#". Sets, which Python prints in another order each time, are sorted.
    """
    line = re.sub(r"\{([^{}:]*)\}", lambda found: "{" + ", ".join(sorted(found[1].split(", "))) + "}", text)
    words = ["…" if _OF_THIS_RUN.search(word) else word for word in line.split()]
    line = re.sub(r"(?<![\w.])\d(?:[\d.,:]*\d)?(?!\w)", "#", " ".join(words))
    line = "".join(letter if letter.isprintable() else "…" for letter in line)
    return line if len(line) <= MOST_SAID else f"{line[:MOST_SAID]}…"


def _disagrees(agreement: float, images: int, least: float) -> str:
    return f"names the same class for {agreement:.2%} of {images:,} test images, and {least:.1%} are asked for"


def _is_off(format_: str, gap: float, tolerance: float) -> str:
    name = f"export.{bound(format_)}"
    # The SavedModel is always written.
    leave = "" if format_ == "saved_model" else "leave it out of export.formats, or "
    return f"is up to {gap} off in a probability, and {name} allows {tolerance} ({leave}raise {name})"
