"""The formats a model is exported in: written, and asked in a process that knows nothing of graft."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.core import certificate
from stages.core.errors import EnvironmentFault, GraftError
from stages.store import (
    clean_process,
    labelled,
    machine_faults,
    models,
    onnx_model,
    saved_model,
    tensorflow_runtime,
)

if TYPE_CHECKING:
    import keras

Pixels = npt.NDArray[np.uint8]
Silence = Callable[[], AbstractContextManager[None]]
# Where each lies in the exported folder.
PLACES = {
    "saved_model": "saved_model",
    "keras": "model.keras",
    "litert": "model.tflite",
    "litert_int8": "model_int8.tflite",
    "openvino": "openvino/model.xml",
    "onnx": "model.onnx",
}
DEADLINE = 1800  # seconds that one format may take for all its images
# What a process that runs into a defect of its runtime ends with. Others are sent, or come of a disk or of memory.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
# In small letters, of Python, TensorFlow, ONNX Runtime, C++, CUDA and LLVM.
OUT_OF_MEMORY = (
    "memoryerror", "resourceexhausted", "resource_exhausted", "oom when allocating", "failed to allocate", "bad_alloc",
    "out of memory", "cannot allocate memory",
)  # fmt: skip

# For a clean process. `ask` takes float32 pixels [n, S, S, 3] of 0-255, or a list of files' bytes, and gives
# probabilities [n, C].
ASK = {
    "saved_model": """
import tensorflow as tf
loaded = tf.saved_model.load(model)
def ask(pixels, files):
    return loaded.signatures["serving_default"](image_bytes=tf.constant(files))["probabilities"].numpy()
""",
    "keras": """
import keras
loaded = keras.saving.load_model(model, compile=False)
def ask(pixels, files):
    return loaded.predict_on_batch(pixels)
""",
    "litert": """
import warnings
warnings.simplefilter("ignore")
import tensorflow as tf
interpreter = tf.lite.Interpreter(model)
runner = interpreter.get_signature_runner()
(taken,) = runner.get_input_details()
def ask(pixels, files):
    (answer,) = runner(**{taken: pixels}).values()
    return answer
""",
    "openvino": """
sys.modules["openvino_telemetry"] = None
import openvino
compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
def ask(pixels, files):
    return compiled(pixels)[0]
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
def ask(pixels, files):
    return session.run(["probabilities"], {"pixels": pixels})[0]
""",
}
ASK["litert_int8"] = ASK["litert"]
ASKED = """
import json, sys, time
import numpy as np
model, folder = sys.argv[1:]
{ask}
pixels, ends = np.load(folder + "/pixels.npy", mmap_mode="r"), np.load(folder + "/ends.npy")
data = open(folder + "/files.bin", "rb")
answers, single = [], []
def batch(start, stop):
    files = []
    for number in range(start, stop):
        data.seek(ends[number])
        files.append(data.read(int(ends[number + 1] - ends[number])))
    return pixels[start:stop].astype(np.float32), files
for start in range(0, len(pixels), 32):
    answers.append(ask(*batch(start, min(start + 32, len(pixels)))))
np.save(folder + "/answers.npy", np.concatenate(answers))
for _ in range(12):
    one = batch(0, 1)
    begun = time.perf_counter()
    ask(*one)
    single.append(time.perf_counter() - begun)
json.dump({{"seconds": sorted(single[2:])[5]}}, sys.stdout)
"""


class FormatFailed(EnvironmentFault):
    """A format that cannot be written or does not run, and the machine is not to blame; `why` as certificate.absent's.

    A fault of the disk, a lack of memory, a deadline and what is sent to end a process are other errors.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


def write(
    format_: str,
    model: keras.Model,
    classes: list[str],
    folder: Path,
    examples: Pixels,
    silent: Silence = tensorflow_runtime.silent_stderr,
) -> Path:
    """Write a model that takes pixels float32 [N, S, S, 3] of 0-255 in one format of PLACES; returns where.

    `examples` uint8 [n, S, S, 3] are images that int8 takes its ranges from. In a fresh process the same calls give
    the same bytes. TensorFlow must have been started. Converters run within `silent`. Raises FormatFailed where one
    fails or is not installed, ConfigError for a base that onnx cannot be written of, and the machine's faults as they
    come.
    """
    check_installed(format_)
    try:
        return _write(format_, model, classes, folder, examples, silent)
    except (GraftError, OSError, MemoryError):
        raise
    # Converters raise whatever the libraries under them raise.
    except Exception as error:
        said = " ".join(str(error).split())[:400] or type(error).__name__
        if machine_faults.while_writing(error, {folder: folder}):
            raise
        if out_of_memory(_chain(error)):
            raise MemoryError(said) from error
        check_space(folder, model.count_params())
        raise FormatFailed(
            f"export.formats: {format_!r} cannot be written, its converter failed ({said}); nothing was published. "
            f"Leave {format_!r} out of export.formats, name it in export.optional, or run it again",
            f"cannot be written, its converter failed ({certificate.said(str(error)) or type(error).__name__})",
        ) from error


def check_installed(format_: str) -> None:
    """Raise FormatFailed where what writes the format is not there."""
    if format_ == "onnx" and (lacking := onnx_model.missing()):
        raise FormatFailed(f"export.formats: {lacking}", f"cannot be written: {lacking}")


def check_space(folder: Path, weights: int) -> None:
    """Raise OSError (ENOSPC) where less is free than twice what so many weights take: a converter failed of that.

    It may say of a full disk whatever it likes, and take away what filled it.
    """
    for place in (folder, Path(tempfile.gettempdir())):
        if shutil.disk_usage(place).free < 2 * 4 * weights:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def _write(
    format_: str, model: keras.Model, classes: list[str], folder: Path, examples: Pixels, silent: Silence
) -> Path:
    path = folder / PLACES[format_]
    path.parent.mkdir(parents=True, exist_ok=True)
    if format_ == "saved_model":
        from stages.core import serving

        saved_model.write(serving.Classifier(model, classes), path)
    elif format_ == "keras":
        models.save(model, path)
        labelled.keras(path, classes)
    elif format_ == "litert_int8":
        import tensorflow as tf

        def ranges() -> Iterator[list[npt.NDArray[np.float32]]]:
            for picture in examples:
                yield [picture[None].astype(np.float32)]

        how = {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": ranges}
        with silent():
            model.export(path, format="litert", verbose=False, **how)
    elif format_ == "onnx":
        with silent():
            onnx_model.write(model, classes, path)
    else:
        with silent(), _openvino_on_new_pythons():
            model.export(str(path), format=format_, verbose=False)
        if format_ == "openvino":
            labelled.openvino(path, classes)
    if path.suffix == ".tflite":
        labelled.litert(path, classes, int(model.input_shape[1]))
    return path


@contextmanager
def _openvino_on_new_pythons() -> Iterator[None]:
    """OpenVINO 2026.4 asks for TensorFlow's version with `exec("import tensorflow")`, then `exec("del tensorflow")`.

    Since Python 3.13 (PEP 667) the second no longer sees what the first made: NameError. TensorFlow is imported here
    already, so that in its module neither is needed.
    """
    if sys.version_info < (3, 13):
        yield
        return
    from openvino.frontend.tensorflow import utils

    utils.exec = lambda code: None
    try:
        yield
    finally:
        del utils.exec


def size(path: Path) -> int:
    """Bytes of what `write` wrote, all files of it."""
    if path.suffix == ".xml":
        return path.stat().st_size + path.with_suffix(".bin").stat().st_size
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextmanager
def questions(folder: Path, pictures: Iterable[tuple[bytes, Pixels]], count: int, side: int) -> Iterator[Path]:
    """`folder`, made and removed, with `count` images as files' bytes and as pixels [side, side, 3], for `answers`."""
    folder.mkdir()
    try:
        pixels = np.lib.format.open_memmap(
            folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(count, side, side, 3)
        )
        ends = [0]
        with (folder / "files.bin").open("wb") as file:
            for number, (data, picture) in enumerate(pictures):
                pixels[number] = picture
                ends.append(ends[-1] + file.write(data))
        pixels.flush()
        np.save(folder / "ends.npy", np.array(ends, np.int64))
        yield folder
    finally:
        shutil.rmtree(folder)


def answers(format_: str, path: Path, asked: Path) -> tuple[npt.NDArray[Any], float]:
    """Probabilities [N, C] of an exported model for `questions`, and seconds of one image, by a clean process.

    Raises FormatFailed where it does not run there, EnvironmentFault where the machine lets it not, or not in time.
    """
    script = ASKED.format(ask=ASK[format_])
    arguments = [str(path.resolve()), str(asked.resolve())]
    try:
        said = clean_process.run(script, arguments, model=path, seconds=DEADLINE)
    except clean_process.Ended as end:
        last = "\n".join(end.last)
        if end.code < 0:
            if -end.code not in CRASHES:
                raise
            why = f"it was ended by {signal.Signals(-end.code).name}"
        else:
            why = certificate.said(end.last[-1]) if end.last else f"it ended with {end.code}"
        if machine_faults.of(RuntimeError(last)) or out_of_memory(end.said):
            raise
        raise FormatFailed(str(end), f"does not run in a clean process ({why})") from end
    found: npt.NDArray[Any] = np.load(asked / "answers.npy")
    return found, float(json.loads(said.splitlines()[-1])["seconds"])


def _chain(error: Exception) -> str:
    """An error and what caused it, in words."""
    return "".join(traceback.format_exception(error, limit=0))


def out_of_memory(said: str) -> bool:
    """Whether that is what a process said of its end."""
    return any(words in said.lower() for words in OUT_OF_MEMORY)
