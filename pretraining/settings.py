"""The settings of the pretraining, parsed from settings.yaml. The file says what each one means."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = Path(__file__).with_name("settings.yaml")


class Group(BaseModel):
    """Frozen, and refuses unknown keys: a misspelt setting stops the run instead of being ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Network(Group):
    size: int
    alpha: float
    bn_momentum: float
    weights: Path
    record: Path


class Letters(Group):
    font_roots: tuple[Path, ...]
    font_packages: tuple[str, ...]
    template_size: int
    min_similarity: float
    rival_margin: float
    size: int
    count: int
    validation_count: int
    validation_fonts: float
    processes: int
    fill: tuple[float, float]
    aspect: float
    rotation: float
    shear: float
    perspective: float
    elastic: float
    shift: float
    bolder: float
    bolder_share: float
    bolder_cover: float
    thinner_share: float


class Augment(Group):
    group: int
    lowres_share: float
    lowres: tuple[int, int]
    zoom: tuple[float, float]
    move: float
    noise: float
    gain: tuple[float, float]
    threshold: tuple[float, float]
    min_contrast: float
    plain_share: float
    tint: float
    shading: float
    pixel_noise: float


class Stage(Group):
    size: int
    images: int


class Train(Group):
    batch: int
    stages: tuple[Stage, ...]
    learning_rate: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    dropout: float
    recalibration_steps: int
    recalibration_momentum: float


class Probe(Group):
    folds: int
    regularisation: float
    checkpoints: int


class Transfer(Group):
    seeds: int
    batch: int
    head_epochs: int
    head_learning_rate: float
    epochs: int
    learning_rate: float
    scratch_learning_rate: float
    first_layer: int


class Settings(Group):
    seed: int
    network: Network
    letters: Letters
    augment: Augment
    train: Train
    probe: Probe
    transfer: Transfer


def load_settings(path: Path = SETTINGS) -> Settings:
    """Parse the settings file; a missing, misspelt or mistyped setting raises."""
    return Settings.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
