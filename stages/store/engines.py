"""Runs a network over pictures: in OpenVINO on a CPU, in TensorFlow on a GPU.

On a CPU OpenVINO runs the same network several times as fast (benchmarks/extraction.py), and Keras on its OpenVINO
backend starts without TensorFlow. Both give the same values within fp16's rounding, not the same bits: an output
made with one is not mixed with the other's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from stages.store import keras_import, tensorflow_runtime

if TYPE_CHECKING:
    import keras

Pixels = npt.NDArray[np.uint8]  # [batch, S, S, 3]
Outputs = list[npt.NDArray[np.floating[Any]]]  # one array [batch, …] for each of the network's outputs
# What the drivers of NVIDIA's and AMD's GPUs put there. Asking TensorFlow would cost its import.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


class Engine(Protocol):
    """What runs a network that takes pixels of 0-255."""

    name: str
    device: str  # what computes, in the words of its maker

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the packages that decide the outputs' bits."""

    def run(
        self, model: keras.Model, batches: Iterable[Pixels], batch_size: int, dtype: npt.DTypeLike
    ) -> Iterator[Outputs]:
        """The outputs of every batch as `dtype`, in order; each batch has at most `batch_size` pictures."""


def choose(engine: Literal["auto", "tensorflow", "openvino"]) -> Literal["tensorflow", "openvino"]:
    """`auto` is tensorflow where this process may use a GPU, else openvino. Imports neither."""
    if engine != "auto":
        return engine
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return "tensorflow" if not hidden and any(Path(device).exists() for device in GPU_DEVICES) else "openvino"


def start(engine: Literal["auto", "tensorflow", "openvino"], threads: int, seed: int) -> Engine:
    """Start the engine; call it before anything imports Keras, whose backend it sets."""
    return _TensorFlow(threads, seed) if choose(engine) == "tensorflow" else _OpenVINO(threads)


class _TensorFlow:
    name = "tensorflow"

    def __init__(self, threads: int, seed: int) -> None:
        self.device = tensorflow_runtime.start(threads, seed)

    @property
    def versions(self) -> Mapping[str, str]:
        return {name: version(name) for name in ("tensorflow", "keras")}

    def run(
        self, model: keras.Model, batches: Iterable[Pixels], batch_size: int, dtype: npt.DTypeLike
    ) -> Iterator[Outputs]:
        for batch in batches:
            found = model.predict_on_batch(_filled(batch, batch_size).astype(np.float32))
            yield [each[: len(batch)].astype(dtype) for each in (found if isinstance(found, list) else [found])]


class _OpenVINO:
    name = "openvino"

    def __init__(self, threads: int) -> None:
        if "keras" in sys.modules and sys.modules["keras"].config.backend() != "openvino":
            raise RuntimeError("Keras runs on another backend already; start the engine before anything imports it")
        os.environ["KERAS_BACKEND"] = "openvino"
        # Else importing OpenVINO tells its maker so and leaves a folder in the user's home. Without the package
        # it uses a stand-in that does nothing.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        with keras_import.lean():
            import keras
        import openvino

        # Otherwise Keras puts a transposition around every convolution: OpenVINO's kernels want channels first.
        keras.config.set_image_data_format("channels_first")
        self._core = openvino.Core()
        self._threads = threads
        self.device = str(self._core.get_property("CPU", "FULL_DEVICE_NAME"))

    @property
    def versions(self) -> Mapping[str, str]:
        return {name: version(name) for name in ("openvino", "keras")}

    def run(
        self, model: keras.Model, batches: Iterable[Pixels], batch_size: int, dtype: npt.DTypeLike
    ) -> Iterator[Outputs]:
        requests = deque(self._requests(model, batch_size))
        running: deque[tuple[Any, Pixels, int]] = deque()

        def finished() -> Outputs:
            request, _, count = running.popleft()
            request.wait()
            requests.append(request)
            # The conversion copies: the next batch overwrites the request's own memory.
            return [np.array(tensor.data[:count], dtype) for tensor in request.output_tensors]

        for batch in batches:
            if not requests:
                yield finished()
            request = requests.popleft()
            pixels = _filled(batch, batch_size)
            request.start_async({0: pixels}, share_inputs=True)
            running.append((request, pixels, len(batch)))  # keeps the pixels while they are read
        while running:
            yield finished()

    def _requests(self, network: keras.Model, batch_size: int) -> list[Any]:
        """Inference requests of a fixed batch size, one more than run at once."""
        import keras
        import openvino

        with tempfile.TemporaryDirectory() as scratch:
            path = f"{scratch}/network.xml"
            # Keras follows one batch through the network: of an open size it would write 1 into some shapes.
            signature = [keras.InputSpec(shape=(batch_size, *network.input_shape[1:]), dtype="float32")]
            network.export(path, format="openvino", verbose=False, input_signature=signature)
            model = self._core.read_model(path)
            prepared = openvino.preprocess.PrePostProcessor(model)
            prepared.input(0).tensor().set_element_type(openvino.Type.u8)
            settings = {
                "INFERENCE_PRECISION_HINT": "f32",  # newer processors would compute in bf16
                "NUM_STREAMS": self._threads,  # each thread its own batch: more in all than one batch by turns
                "INFERENCE_NUM_THREADS": self._threads,
            }
            compiled = self._core.compile_model(prepared.build(), "CPU", settings)
        return [compiled.create_infer_request() for _ in range(self._threads + 1)]


def _filled(batch: Pixels, batch_size: int) -> Pixels:
    """The batch, with black pictures behind it where it is short: one shape is compiled."""
    if len(batch) == batch_size:
        return batch
    return np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), np.uint8)])
