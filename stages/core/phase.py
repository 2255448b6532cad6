"""Length and rate of one phase of training, as params.yaml has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from stages.core.parameters import Problem


class Phase(BaseModel):
    """Length and rate of one phase. An epoch passes every training image once, one view of it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(10, ge=0, le=10_000, description="at most this many")
    batch_size: int = Field(32, ge=1, le=4096, description="images per step")
    learning_rate: float | None = Field(None, gt=0.0, le=1.0, description="the optimizer's")
    stop_after: int = Field(0, ge=0, description="epochs without a lower validation loss; 0 never stops")
    reduce_after: int = Field(0, ge=0, description="epochs without one before the rate drops; 0 never")
    reduce_by: float = Field(3.0, gt=1.0, le=1000.0, description="what the rate is divided by")
    decay: Literal["none", "cosine"] = Field("none", description="cosine: the rate falls to zero over the epochs")
    warm_up: float = Field(0.0, ge=0.0, description="epochs in which the rate rises from zero; needs decay: cosine")

    def problems(self, key: str) -> Iterator[Problem]:
        """What does not go together; `key` is the phase's, as fine_tune.head."""
        if self.decay == "cosine" and self.reduce_after:
            problem = f"received {self.reduce_after}; must be 0 with decay: cosine, which sets the rate itself"
            yield Problem(f"{key}.reduce_after", problem)
        if self.warm_up and self.decay != "cosine":
            yield Problem(f"{key}.warm_up", f"received {self.warm_up:g}; must be 0 without decay: cosine")
        if self.warm_up > self.epochs:
            yield Problem(f"{key}.warm_up", f"received {self.warm_up:g}; must be at most the epochs")
