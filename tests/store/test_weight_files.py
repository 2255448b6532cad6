"""Weights that somebody made to do harm: refused with exit 4, in little memory, with nothing run or read of theirs."""

from __future__ import annotations

import base64
import io
import json
import marshal
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.errors import ConfigError, IntegrityError
from stages.store import hashes, models, pretrained, weight_files

pytestmark = pytest.mark.usefixtures("tensorflow")
KERNEL = "layers/conv2d/vars/0"
SIDE = 32
Edit = Callable[[Any], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The parts of a base as Keras saves it, by name."""
    import keras

    path = tmp_path_factory.mktemp("good") / "base.keras"
    inputs = keras.Input((SIDE, SIDE, 3))
    keras.Model(inputs, keras.layers.Conv2D(2, 3, name="stem")(inputs)).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """A gigabyte more of address space than there is now: a bomb ends in MemoryError and not with this machine."""
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def packed(path: Path, parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def opened(path: Path) -> Any:
    """As feature_extract opens it, with a pin that fits."""
    pin = hashes.sha256_of_file(path)
    if path.suffix == ".keras":
        return pretrained.pretrained_base(str(path), SIDE, 1.0, "inside", pin)
    return pretrained.pretrained_base("MobileNetV2", SIDE, 0.35, str(path), pin)


def refusal(path: Path) -> str:
    with pytest.raises(IntegrityError) as caught:
        opened(path)
    assert caught.value.exit_code == 4
    assert str(path) in str(caught.value)
    return str(caught.value)


def shape_bomb(file: Any) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (900, 1000, 1000), "f4", chunks=(1, 1000, 1000), fillvalue=0.0, compression="gzip")


def external_link(file: Any) -> None:
    import h5py

    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink("secret.h5", "/x")


def external_values(file: Any) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 2), "u1", external=[("/etc/passwd", 0, 54)])


def virtual_values(file: Any) -> None:
    import h5py

    del file[KERNEL]
    layout = h5py.VirtualLayout((3, 3, 3, 2), "f4")
    layout[...] = h5py.VirtualSource("secret.h5", "x", (3, 3, 3, 2))
    file.create_virtual_dataset(KERNEL, layout)


def soft_link(file: Any) -> None:
    import h5py

    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/layers/conv2d/vars/1")


def group_in_itself(file: Any) -> None:
    file["layers/again"] = file["layers"]


def texts(file: Any) -> None:
    file["layers/conv2d/vars/2"] = "no number"


def foreign_filter(file: Any) -> None:
    del file[KERNEL]
    file.create_dataset(KERNEL, (3, 3, 3, 2), "f4", chunks=True, compression="lzf")


HARM: dict[Edit, str] = {
    shape_bomb: "that hold 3,600,000,008; at most 20 times",
    external_link: f"'/{KERNEL}' is a link",
    external_values: "has its values in another file",
    virtual_values: "has its values in another file",
    soft_link: f"'/{KERNEL}' is a link",
    group_in_itself: "stands in two places",
    texts: "weights are numbers",
    foreign_filter: "needs a library",
}


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("harm", HARM, ids=lambda harm: harm.__name__)
def test_hdf5_that_is_more_than_numbers(
    harm: Edit,
    suffix: str,
    good: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    little_memory: None,
) -> None:
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["x"] = np.full((3, 3, 3, 2), 7, "f4")
    path = tmp_path / "weights.h5"
    path.write_bytes(good["model.weights.h5"])
    with h5py.File(path, "r+") as file:
        harm(file)
    if suffix == ".keras":
        path = packed(tmp_path / "base.keras", {**good, "model.weights.h5": path.read_bytes()})
    for parser in ("load", "load_weights"):
        monkeypatch.setattr(models, parser, lambda *_: pytest.fail("a parser was given the file"))
    assert HARM[harm] in refusal(path)


def replaced(**values: Any) -> Edit:
    """Another layer in place of the convolution."""
    return lambda layer: layer.update({"registered_name": None, **values})


def activated(value: Any) -> Edit:
    return lambda layer: layer["config"].update(activation=value)


def code_of(canary: str) -> str:
    """What Keras writes of a Lambda's function, which would make the file `canary`."""
    code = compile(f"lambda x: (open({canary!r}, 'w').close(), x)[1]", "<hostile>", "eval").co_consts[0]
    return base64.b64encode(marshal.dumps(code)).decode()


def described(canary: str) -> dict[str, Edit]:
    function = {"class_name": "function", "registered_name": "function"}
    marshalled = {"class_name": "__lambda__", "config": {"code": code_of(canary), "defaults": None, "closure": None}}
    return {
        "Lambda": replaced(module="keras.layers", class_name="Lambda", config={"name": "x", "function": marshalled}),
        "code as activation": activated(marshalled),
        "os.system": replaced(module="os", class_name="system", config={"command": f"touch {canary}"}),
        "exec": activated({"module": "builtins", "config": "exec", **function}),
        "get_file": activated({"module": "keras.utils", "config": "get_file", **function}),
        "load_model": activated({"module": "keras.saving", "config": "load_model", **function}),
        "a host's file as vocabulary": replaced(
            module="keras.layers", class_name="StringLookup", config={"name": "x", "vocabulary": "/etc/passwd"}
        ),
        "a SavedModel": replaced(module="keras.layers", class_name="TFSMLayer", config={"name": "x", "filepath": "/x"}),
    }


@pytest.mark.parametrize("what", described(""))
@pytest.mark.parametrize("unsafe", [False, True], ids=["", "asks for no safe mode"])
def test_a_description_that_would_run_or_read_something(
    what: str, unsafe: bool, good: dict[str, bytes], tmp_path: Path
) -> None:
    canary = tmp_path / "pwned"
    config = json.loads(good["config.json"])
    described(str(canary))[what](config["config"]["layers"][1])
    if unsafe:
        config |= {"safe_mode": False}
        config["config"] |= {"safe_mode": False}
    path = packed(tmp_path / "base.keras", {**good, "config.json": json.dumps(config).encode()})
    assert "without running code" in refusal(path)
    assert not canary.exists()


def test_the_canary_would_show(tmp_path: Path) -> None:
    import types

    code = marshal.loads(base64.b64decode(code_of(str(tmp_path / "pwned"))))
    types.FunctionType(code, globals())(None)
    assert (tmp_path / "pwned").exists()


@pytest.mark.parametrize("filters", [200_000_000, 2_000_000])
def test_layers_larger_than_what_is_stored(
    filters: int, good: dict[str, bytes], tmp_path: Path, little_memory: None
) -> None:
    config = json.loads(good["config.json"])
    config["config"]["layers"][1]["config"]["filters"] = filters
    path = packed(tmp_path / "base.keras", {**good, "config.json": json.dumps(config).encode()})
    assert f"describes layers of {filters * 28 * 4:,} bytes of weights and holds 224" in refusal(path)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"../../evil": b"x"}, "holds '../../evil'"),
        ({"assets/x": b"x"}, "holds 'assets/x'"),
        ({"config.json": b"{" + b" " * (33 * 2**20) + b"}"}, "its description to 34,603,010"),
        ({"config.json": b"[" * 200_000}, "not a readable .keras file"),
        ({"config.json": b"null"}, "without running code"),
        ({"model.weights.h5": b"no HDF5"}, "not a readable HDF5 file"),
    ],
)
def test_other_parts_than_keras_writes(
    parts: dict[str, bytes], said: str, good: dict[str, bytes], tmp_path: Path
) -> None:
    path = packed(tmp_path / "base.keras", {**good, **parts}, zipfile.ZIP_DEFLATED)
    assert said in refusal(path)
    assert [path.name for path in tmp_path.iterdir()] == ["base.keras"]


def test_what_is_no_hdf5_or_keras_file(tmp_path: Path, little_memory: None) -> None:
    bomb = tmp_path / "weights.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9,)})
    packed(bomb, {"0.npy": header.getvalue()})
    assert "not a readable HDF5 file" in refusal(bomb)
    (tmp_path / "torn.keras").write_bytes(b"PK\x03\x04torn")
    assert "not a readable .keras file" in refusal(tmp_path / "torn.keras")


def test_a_whole_model_with_a_lambda_as_weights_runs_nothing(tmp_path: Path) -> None:
    import keras

    canary = tmp_path / "pwned"
    place = str(canary)
    inputs = keras.Input((2,))
    touched = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(place).touch(), x)[1])(inputs)
    keras.Model(inputs, keras.layers.Dense(2)(touched)).save(tmp_path / "model.h5")
    canary.unlink()  # building the layer made it
    with pytest.raises((ConfigError, IntegrityError)):
        opened(tmp_path / "model.h5")
    assert not canary.exists()


def test_a_wrong_pin_is_told_before_anything_opens_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = (weight_files, "check_weights"), (weight_files, "check_model"), (pretrained.backbones, "build")
    for module, name in opens:
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("the file was opened"))
    weights, base = tmp_path / "weights.h5", tmp_path / "base.keras"
    for path, name in ((weights, "MobileNetV2"), (base, str(base))):
        path.write_bytes(b"whatever")
        with pytest.raises(IntegrityError, match=r"feature_extract\.weights_sha256 pins 0000"):
            pretrained.pretrained_base(name, SIDE, 1.0, str(path), "0" * 64)


def test_a_good_base_opens(good: dict[str, bytes], tmp_path: Path, little_memory: None) -> None:
    assert opened(packed(tmp_path / "base.keras", good)).count_params() == 56
