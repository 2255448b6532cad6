"""Which of Keras's optimizers may be named, and with which arguments: parameters are checked without Keras."""

from __future__ import annotations

from typing import Literal

# What each takes beside EVERY; a test compares with Keras.
# Not among them: averaged weights (use_ema), as the best epoch's own are kept, and gradient_accumulation_steps, which
# a schedule does not count; batch_size does the same.
EVERY = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor")
MOMENTS = ("beta_1", "beta_2", "epsilon")
OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "SGD": ("momentum", "nesterov"),
    "RMSprop": ("rho", "momentum", "epsilon", "centered"),
    "Adam": (*MOMENTS, "amsgrad"),
    "AdamW": (*MOMENTS, "amsgrad"),
    "Adadelta": ("rho", "epsilon"),
    "Adagrad": ("initial_accumulator_value", "epsilon"),
    "Adamax": MOMENTS,
    "Adafactor": ("beta_2_decay", "epsilon_1", "epsilon_2", "clip_threshold", "relative_step"),
    "Nadam": MOMENTS,
    "Ftrl": (
        "learning_rate_power", "initial_accumulator_value", "l1_regularization_strength",
        "l2_regularization_strength", "l2_shrinkage_regularization_strength", "beta",
    ),
    "Lion": ("beta_1", "beta_2"),
    "Lamb": MOMENTS,
}  # fmt: skip
SWITCHES = ("nesterov", "centered", "amsgrad", "relative_step")  # the arguments that are true or false
Optimizer = Literal[
    "SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor", "Nadam", "Ftrl", "Lion", "Lamb",
]  # fmt: skip
