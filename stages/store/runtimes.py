"""Exported models, opened in this process: what each format's own runtime answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.core.errors import ConfigError, IntegrityError
from stages.store import onnx_model, tensorflow_runtime
from stages.store.exported import PLACES

Answers = npt.NDArray[Any]


class Runtime(NamedTuple):
    """An opened model of `classes` classes that takes pictures of `side` x `side` pixels."""

    side: int
    classes: int
    ask: Callable[[npt.NDArray[np.uint8]], Answers]  # pixels [n, side, side, 3] → probabilities float [n, classes]


def opened(format_: str, folder: Path, threads: int = 2) -> Runtime:
    """Open one format of PLACES in a folder that export wrote. OpenVINO's starts without TensorFlow.

    Raises IntegrityError where it is not there or not such a model, ConfigError where ONNX's runtime is not installed.
    """
    if format_ == "onnx" and (why := onnx_model.missing(("onnxruntime",))):
        raise ConfigError(f"--format: {why}")
    path = folder / PLACES[format_]
    if not path.exists():
        raise IntegrityError(f"{path}: not found; export writes {format_} where export.formats names it")
    try:
        return _OPEN[format_](path, threads)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path}: not a model that export wrote ({first}); run dvc repro export") from error


def _saved_model(path: Path, threads: int) -> Runtime:
    tensorflow_runtime.start(threads, seed=0)
    import tensorflow as tf

    try:
        loaded = tf.saved_model.load(str(path))
    except tf.errors.OpError as error:
        raise ValueError(str(error)) from error
    signature = loaded.signatures["pixels"]

    def ask(pixels: npt.NDArray[np.uint8]) -> Answers:
        # The signature alone would not keep the model's variables alive.
        _ = loaded
        found: Answers = signature(pixels=tf.constant(pixels.astype(np.float32)))["probabilities"].numpy()
        return found

    side = signature.structured_input_signature[1]["pixels"].shape[1]
    return Runtime(int(side), int(signature.structured_outputs["probabilities"].shape[1]), ask)


def _keras(path: Path, threads: int) -> Runtime:
    tensorflow_runtime.start(threads, seed=0)
    from stages.store import models

    model = models.load(path)
    return Runtime(
        int(model.input_shape[1]),
        int(model.output_shape[1]),
        lambda pixels: np.asarray(model.predict_on_batch(pixels.astype(np.float32))),
    )


def _litert(path: Path, threads: int) -> Runtime:
    tensorflow_runtime.start(threads, seed=0)
    import warnings

    import tensorflow as tf

    with warnings.catch_warnings(), tensorflow_runtime.silent_stderr():
        warnings.simplefilter("ignore")  # TensorFlow asks to import the same interpreter from another package
        interpreter = tf.lite.Interpreter(str(path), num_threads=threads)
        runner = interpreter.get_signature_runner()
    ((taken, facts),) = runner.get_input_details().items()
    ((given, answer),) = runner.get_output_details().items()

    def ask(pixels: npt.NDArray[np.uint8]) -> Answers:
        found: Answers = runner(**{taken: pixels.astype(np.float32)})[given]
        return found

    return Runtime(int(facts["shape"][1]), int(answer["shape"][-1]), ask)


def _openvino(path: Path, threads: int) -> Runtime:
    # As in engines: else importing OpenVINO tells its maker so.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return Runtime(
        compiled.input(0).partial_shape[1].get_length(),
        compiled.output(0).partial_shape[1].get_length(),
        lambda pixels: np.array(compiled(pixels.astype(np.float32))[0]),
    )


def _onnx(path: Path, threads: int) -> Runtime:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes derive from nothing but this
        raise ValueError(str(error)) from error
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    return Runtime(
        int(taken.shape[1]),
        int(given.shape[1]),
        lambda pixels: np.asarray(session.run([given.name], {taken.name: pixels.astype(np.float32)})[0]),
    )


_OPEN: dict[str, Callable[[Path, int], Runtime]] = {
    "saved_model": _saved_model,
    "keras": _keras,
    "litert": _litert,
    "litert_int8": _litert,
    "openvino": _openvino,
    "onnx": _onnx,
}
