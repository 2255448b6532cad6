"""What benchmarks.fuzz feeds: each function judges a list of byte strings, in a process of its own.

A judgement is a text: what was decided, or DEFECT and why where something else happened than may happen.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from pathlib import Path

import numpy as np

from stages.core import images, measurement, quarantine
from stages.core.errors import ConfigError
from stages.core.parameters import StageParams
from stages.store import params

DEFECT = "DEFECT "
SIDE = 32  # pixels; as small as training may ask for, so that most JPEGs are decoded at a scale
QUIET = os.open(os.devnull, os.O_WRONLY)
MOST_SAID = 60_000  # characters of an error about a params file


def judge_images(files: list[bytes]) -> list[str]:
    """What validate measures, what it would show, and what training decodes must agree on each file."""
    os.dup2(QUIET, 2)  # libtiff writes a line for each
    try:
        measured = measurement.measure(files)
    except MemoryError:
        raise
    except Exception:
        return [_image(data, None) for data in files]
    return [_image(data, found) for data, found in zip(files, measured, strict=True)]


def _image(data: bytes, found: measurement.Measurement | None) -> str:
    try:
        (alone,) = measurement.measure([data])
        if found is not None and alone != found:
            return f"{DEFECT}measured otherwise alone than in company"
        validator = f"{alone.reason}: {alone.detail}" if alone.reason else f"{alone.width} x {alone.height}"
        trained = _decoded(data)
        if trained != validator:
            return f"{DEFECT}validate says {validator!r}, training {trained!r}"
        if alone.reason is not None and alone.reason not in quarantine.REASONS:
            return f"{DEFECT}{alone.reason} is no reason"
        if (images.thumbnail(data, SIDE) is None) != (alone.reason is not None):
            return f"{DEFECT}a picture for the page, or none, otherwise than measured"
        of_pixels = "" if alone.reason else f" {alone.mode} {alone.bit_depth} {alone.frames}"
        return f"{alone.format} {validator}{of_pixels}"
    except MemoryError:
        raise
    except Exception:
        return DEFECT + traceback.format_exc(limit=-4)


def _decoded(data: bytes) -> str:
    """The verdict of the decoder that trains, as the size it saw or the reason."""
    try:
        pixels = images.decode(data)
    except images.Undecodable as error:
        whole = str(error)
        try:
            images.decode_resized(data, SIDE)
        except images.Undecodable as again:
            return whole if str(again) == whole else f"{whole}, at a size {again}"
        return f"{whole}, at a size pixels"
    small = images.decode_resized(data, SIDE)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or small.shape != (SIDE, SIDE, 3):
        return f"pixels {pixels.dtype} {pixels.shape} {small.shape}"
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def judge_params(files: list[bytes]) -> list[str]:
    """A params file is legal parameters of every stage, or one error of bounded length."""
    with tempfile.TemporaryDirectory() as folder:
        return [_params(data, Path(folder, "params.yaml")) for data in files]


def _params(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    try:
        blocks = params.read_all(path)
    except ConfigError as error:
        said = str(error)
        if len(said) > MOST_SAID:
            return f"{DEFECT}an error of {len(said)} characters"
        try:
            said.encode()
        except UnicodeEncodeError:
            return f"{DEFECT}an error that no terminal can show"
        return said.removeprefix(f"{path}: ")
    except MemoryError:
        raise
    except Exception:
        return DEFECT + traceback.format_exc(limit=-4)
    if set(blocks) != set(params.STAGES) or not all(isinstance(block, StageParams) for block in blocks.values()):
        return f"{DEFECT}not every stage has its parameters"
    for block in blocks.values():
        # What a stage records of its parameters must be JSON, UTF-8.
        block.model_dump_json().encode()
    return "legal"
