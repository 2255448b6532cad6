"""params.yaml: every problem at once, in words, before any stage starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.errors import ConfigError
from stages.split import SplitParams
from stages.store import hub_presets, params

ROOT = Path(__file__).parents[2]
LEGAL = """\
download: {watch: data/images}
validate: {}
split: {}
feature_extract: {}
fine_tune: {}
evaluate: {}
export: {}
"""


def problems(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        params.read(SplitParams, path)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_are_legal_and_typed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(LEGAL.replace("split: {}", "split: {val_fraction: 0.3}"))
    settings = params.read(SplitParams, path)
    assert isinstance(settings, SplitParams)
    assert settings.val_fraction == 0.3
    assert set(params.read_all(path)) == set(params.STAGES)


def test_every_problem_in_every_block_is_named_with_line_value_and_legal_range(tmp_path: Path) -> None:
    text = """\
download: {}
validate: {}
split:
  val_fraction: lots
  test_fraction: 0.95
  sed: 3
feature_extract:
  views: 0
  backbone: ResNet
  augmentation: {rotation: 2.0, spin: 1}
fine_tune:
  head: {epochs: 2.5, learning_rate: .nan}
evaluate: []
exprot: {}
"""
    message = problems(tmp_path, text)
    for expected in (
        "line 4: split.val_fraction: received 'lots' (str); must be a number >= 0.01 and <= 0.5",
        "line 5: split.test_fraction: received 0.95 (float); must be a number >= 0.01 and <= 0.5",
        "line 6: split.sed: unknown key; did you mean 'seed'?",
        "line 8: feature_extract.views: received 0 (int); must be an integer >= 1 and <= 64",
        "line 9: feature_extract.backbone: received 'ResNet'; must be the path of a .keras file, preset:… or one of",
        "line 10: feature_extract.augmentation.rotation: received 2.0 (float); must be a number >= 0.0 and <= 0.5",
        "line 10: feature_extract.augmentation.spin: unknown key; legal keys: ",
        "line 12: fine_tune.head.epochs: received 2.5 (float); must be an integer >= 0 and <= 10000",
        "line 12: fine_tune.head.learning_rate: received nan (float); must be a number > 0.0 and <= 1.0 or null",
        "line 13: evaluate: received []; must be a mapping of parameters",
        "line 14: exprot: unknown key; did you mean 'export'?",
        "export: missing block; `{}` takes every default",
    ):
        assert expected in message
    assert message.startswith(f"{tmp_path / 'params.yaml'}: 12 problems; no stage was started")


def test_rules_between_blocks(tmp_path: Path) -> None:
    text = LEGAL.replace("watch: data/images", "source: digits")
    text = text.replace("feature_extract: {}", "feature_extract: {weights: w.h5, cut_at: 120}")
    text = text.replace("fine_tune: {}", "fine_tune: {fine_tune_at: 50, from_scratch: true}")
    message = problems(tmp_path, text.replace("split: {}", "split: {val_fraction: 0.5, test_fraction: 0.4}"))
    assert "feature_extract.weights_sha256: missing; a local weight file must be pinned" in message
    assert "fine_tune.fine_tune_at: received 50; layers below feature_extract.cut_at (120)" in message
    assert "fine_tune.from_scratch: received true" in message
    assert "download.watch: missing; the path DVC watches" in message
    assert "split.val_fraction: with test_fraction it takes 0.9" in message


def test_a_baseline_that_is_not_trained_cannot_be_asked_for(tmp_path: Path) -> None:
    asked = LEGAL.replace("evaluate: {}", "evaluate: {baselines: [majority_class, from_scratch]}")
    message = problems(tmp_path, asked)
    assert "1 problem; no stage was started" in message
    said = "received 'from_scratch', which is not trained: set fine_tune.from_scratch: true, or leave it out"
    assert f"line 6: evaluate.baselines: {said}" in message
    trained = asked.replace("fine_tune: {}", "fine_tune: {from_scratch: true}")
    trained = trained.replace("feature_extract: {}", "feature_extract: {pixels: true}")
    (tmp_path / "params.yaml").write_text(trained)
    settings = params.read_all(tmp_path / "params.yaml")["evaluate"]
    assert settings.model_dump()["baselines"] == ["majority_class", "from_scratch"]
    message = problems(tmp_path, LEGAL.replace("evaluate: {}", "evaluate: {baselines: [chance]}"))
    assert "evaluate.baselines.0: received 'chance' (str); must be one of 'majority_class', " in message


def test_optimizer_arguments_are_named_as_the_file_has_them(tmp_path: Path) -> None:
    """Not as pydantic does, which adds each type that a value could have had."""
    wrong = (
        "optimizer: SGD, optimizer_arguments: {nesterov: maybe, momentum: [0.9], clipnorm: null, weight_decay: .nan}"
    )
    message = problems(tmp_path, LEGAL.replace("fine_tune: {}", f"fine_tune: {{{wrong}}}"))
    for expected in (
        "fine_tune.optimizer_arguments.nesterov: received 'maybe' (str); must be a number or true or false",
        "fine_tune.optimizer_arguments.momentum: received [0.9] (list); must be a number or true or false",
        "fine_tune.optimizer_arguments.clipnorm: received None (NoneType); must be a number or true or false",
        "fine_tune.optimizer_arguments.weight_decay: received nan (float); must be a number or true or false",
    ):
        assert message.count(expected) == 1
    assert "4 problems" in message
    wrong = "optimizer: SGD, optimizer_arguments: {nesterov: 1, momentum: true, clipnorm: false, rho: 0.9}"
    message = problems(tmp_path, LEGAL.replace("fine_tune: {}", f"fine_tune: {{{wrong}}}"))
    for expected in (
        "fine_tune.optimizer_arguments.nesterov: received 1 (int); must be true or false",
        "fine_tune.optimizer_arguments.momentum: received True (bool); must be a number",
        "fine_tune.optimizer_arguments.clipnorm: received False (bool); must be a number",
        "fine_tune.optimizer_arguments.rho: SGD does not take it here; it takes momentum, nesterov, weight_decay, ",
    ):
        assert expected in message
    message = problems(tmp_path, LEGAL.replace("fine_tune: {}", "fine_tune: {optimizer_arguments: 3}"))
    assert "fine_tune.optimizer_arguments: received 3 (int); must be a mapping" in message


def test_optimizer_arguments_keep_their_types(tmp_path: Path) -> None:
    """An integer is not made a float nor true a 1: the record of the training has what was written."""
    path = tmp_path / "params.yaml"
    own = "{clipnorm: 1, momentum: 0.9, nesterov: true, weight_decay: 4e-3}"
    path.write_text(LEGAL.replace("fine_tune: {}", f"fine_tune: {{optimizer: SGD, optimizer_arguments: {own}}}"))
    found = params.read_all(path)["fine_tune"].model_dump()["optimizer_arguments"]
    assert found == {"clipnorm": 1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.004}
    assert [type(value) for value in found.values()] == [int, float, bool, float]


@pytest.mark.parametrize(
    ("extract", "tune", "expected"),
    [
        ("backbone: EfficientNetB0", "fine_tune_at: 999", "fine_tune.fine_tune_at: received 999; the base has 237"),
        ("backbone: ResNet50, alpha: 0.5", "", "feature_extract.alpha: received 0.5; ResNet50 has one width, 1"),
        ("backbone: InceptionV3, image_size: 64", "", "feature_extract.image_size: received 64; InceptionV3 needs 75"),
        ("backbone: NASNetMobile", "", "received 160; Keras has NASNetMobile's weights for 224 alone"),
        ("backbone: ResNet50, preprocessing: tf", "", "feature_extract.preprocessing: received 'tf'; ResNet50 has its"),
        ("cut_at: -999", "", "feature_extract.cut_at: received -999; the base has 154 layers"),
        ("cut_at: 0.9", "fine_tune_at: -40", "received -40; layers below feature_extract.cut_at (0.9) are stored"),
        ("backbone: mine.keras", "", "feature_extract.weights: received 'imagenet'; must be 'inside'"),
        ("backbone: mine.keras", "", "feature_extract.weights_sha256: missing; a local base must be pinned"),
        ("backbone: mine.keras", "", "feature_extract.preprocessing: missing; a .keras file needs one of tf, caffe"),
        ("cut_at: true", "", "feature_extract.cut_at"),
        ("backbone: EfficientNetB0, weights: mine", "", "received 'mine'; a model around EfficientNetB0 may divide"),
    ],
)
def test_a_base_and_its_layers_are_checked_before_any_stage(
    tmp_path: Path, extract: str, tune: str, expected: str
) -> None:
    text = LEGAL.replace("feature_extract: {}", f"feature_extract: {{{extract}}}")
    assert expected in problems(tmp_path, text.replace("fine_tune: {}", f"fine_tune: {{{tune}}}"))


@pytest.mark.parametrize("at", ["block_11_expand", "-54", "0.65", "100"])
def test_a_layer_may_be_named_in_four_ways(tmp_path: Path, at: str) -> None:
    path = tmp_path / "params.yaml"
    text = LEGAL.replace("fine_tune: {}", f"fine_tune: {{fine_tune_at: {at}}}")
    path.write_text(text.replace("feature_extract: {}", f"feature_extract: {{cut_at: {at}}}"))
    params.read_all(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "holds NoneType; must be a mapping"),
        ("- 1\n", "holds list; must be a mapping"),
        ("split: {seed: 1, seed: 2}\n", "duplicate key"),
        ("split: !!python/object/apply:os.system ['touch pwned']\n", "line 1: received the tag 'tag:yaml.org"),
        ("\nsplit: {seed: !!bool x}\n", "line 2: received the tag 'tag:yaml.org,2002:bool'"),
        ("split: [1\n", "not readable as YAML"),
        (b"split: \xff\xfe\n", "not readable as YAML"),
        ("a: &a [x]\n" + "".join(f"k{n}: [*a, *a]\n" for n in range(40)), "line 18: more than 32 aliases"),
        ("#" * 70_000, "70000 bytes; a params file has at most"),
        ("a: &a {b: *a}\n", "line 1: an alias (*name) stands inside what it names"),
        # Each line doubles the one before: 65,000 values of 400 bytes.
        ("x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [*x{n - 1}, *x{n - 1}]\n" for n in range(1, 16)), "written out"),
        ("split: {seed: 0x" + "f" * 60_000 + "}\n", "line 1: split.seed: received an integer of 240,000 bits"),
        ("split: {seed: " + "7" * 60_000 + "}\n", "not readable as YAML: Exceeds the limit"),
        ("\nsplit: " + "[" * 30_000, "line 2: nested deeper than 16"),
        ("\nsplit: " + "{a: " * 15_000, "line 2: nested deeper than 16"),
        ('validate: {classes: ["\\ud800", "b"]}\n', "validate.classes.0: received half of a surrogate pair"),
        ('"\\ud800": {a: ' + "9" * 60 + "}\n", "received an integer of 200 bits"),
        ('"\\ud800": 1\n"\\ud800": 2\n', 'found duplicate key "\\ud800"'),
        ('"\\ud800": {}\n', "\\ud800: received half of a surrogate pair"),
        ("%YAML 1.0\n---\nsplit: {}\n", "not readable as YAML: version minor part can only be 2 or 1"),
        ("split: {seed: " + "x" * 60_000 + "}\n", "(60,002 characters) (str); must be an integer"),
        ("".join(f"k{n}: 1\n" for n in range(300)), "and 207 more"),
    ],
)
def test_hostile_or_broken_yaml_is_one_clear_error(tmp_path: Path, text: str | bytes, expected: str) -> None:
    message = problems(tmp_path, text)  # of two of these reading on took minutes
    assert expected in message
    assert len(message) < 60_000  # and one filled 49 MB
    message.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cp recipes/digits\.yaml"):
        params.read(SplitParams, tmp_path / "params.yaml")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    """1e-3 is a text in YAML 1.1 and a number in 1.2, which DVC reads; `no` the other way round."""
    path = tmp_path / "params.yaml"
    path.write_text(LEGAL.replace("fine_tune: {}", "fine_tune: {head: {epochs: 1, learning_rate: 1e-3}}"))
    assert params.read_all(path)["fine_tune"].model_dump()["head"]["learning_rate"] == 0.001


@pytest.mark.parametrize("stage", params.STAGES)
def test_every_stage_refuses_a_wrong_value_of_another_with_exit_2(tmp_path: Path, stage: str) -> None:
    (tmp_path / "params.yaml").write_text(LEGAL.replace("evaluate: {}", "evaluate: {resamples: 3}"))
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", f"stages.{stage}"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert "evaluate.resamples: received 3 (int); must be an integer >= 10 and <= 100000" in said
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "params.yaml"]


def test_a_preset_without_its_package_stops_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = LEGAL.replace("feature_extract: {}", "feature_extract: {backbone: 'preset:bases/mine'}")
    monkeypatch.setattr(hub_presets, "find_spec", lambda name: None)
    expected = "received 'preset:bases/mine'; a preset needs keras-hub, which is not installed: pip install -c constr"
    assert expected in problems(tmp_path, text)
    monkeypatch.setattr(hub_presets, "find_spec", lambda name: name)
    message = problems(tmp_path, text)
    assert "feature_extract.weights: received 'imagenet'; must be 'inside', as preset:bases/mine holds" in message
    assert "feature_extract.weights_sha256: missing; a local base must be pinned" in message
    assert "feature_extract.preprocessing" not in message
