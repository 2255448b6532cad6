"""The images on which two models can be compared: in the test of both, seen in training by neither."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST = 200  # images that a comparison needs at least
GONE_MOST = 0.05  # share of the champion's test that may have left it without anybody saying so


@dataclass(frozen=True)
class Contender:
    """A model's classes and test. Images are told by image_id, the SHA-256 of their bytes."""

    classes: list[str]
    answers: dict[str, tuple[str, list[float]]]  # image_id → label, probabilities in the classes' order
    trained: set[str]
    train_labels: Counter[str]

    @property
    def commonest(self) -> str:
        """The class with most training images; of several the first by name."""
        return min(self.train_labels, key=lambda label: (-self.train_labels[label], label))

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Probabilities [N, C] and labels [N] of all its test images, in the order of their ids."""
        rows = [self.answers[image_id] for image_id in sorted(self.answers)]
        place = {label: number for number, label in enumerate(self.classes)}
        labels = np.array([place[label] for label, _ in rows], np.int64)
        return np.array([one for _, one in rows], np.float64).reshape(len(rows), len(place)), labels


@dataclass(frozen=True)
class Shared:
    """N images in the order of their ids. Columns are the union of both models' classes; one that a model does not
    know has probability 0 there."""

    image_ids: list[str]
    classes: list[str]
    labels: npt.NDArray[np.int64]  # [N]
    champion: npt.NDArray[np.float64]  # [N, C]
    challenger: npt.NDArray[np.float64]
    rules: list[dict[str, Any]]


def contender(
    predicted: Iterable[Mapping[str, Any]], split: Iterable[Mapping[str, Any]], classes: Sequence[str]
) -> Contender:
    """From rows of schemas.PREDICTIONS and SPLIT. An image that comes twice counts once; under two labels, not."""
    answers: dict[str, tuple[str, list[float]]] = {}
    doubtful = set()
    for row in predicted:
        if row["split"] == "test":
            known = answers.setdefault(row["image_id"], (row["label"], row["probabilities"]))
            if known[0] != row["label"]:
                doubtful.add(row["image_id"])
    for image_id in doubtful:
        del answers[image_id]
    trained = [row for row in split if row["split"] == "train"]
    return Contender(
        list(classes), answers, {row["image_id"] for row in trained}, Counter(row["label"] for row in trained)
    )


def shared(champion: Contender, challenger: Contender, accepted: Collection[str]) -> Shared:
    """What both were tested on, and the rules `class-set-changed` and `test-split-changed`.

    `accepted` are the changes that a person takes upon themselves: "classes", "split", both or none. An image's label
    is the challenger's: it is the later one.
    """
    both = [label for label in champion.classes if label in challenger.classes]
    classes = sorted({*champion.classes, *challenger.classes})
    of_shared_classes = {one for one, (label, _) in champion.answers.items() if label in both}
    now = {one for one, (label, _) in challenger.answers.items() if label in both}
    known = of_shared_classes & now
    fit = sorted(known - champion.trained - challenger.trained)
    relabelled = sum(champion.answers[one][0] != challenger.answers[one][0] for one in fit)
    place = {label: number for number, label in enumerate(classes)}
    rules = [
        _class_rule(champion, challenger, both, "classes" in accepted, len(champion.answers) - len(of_shared_classes)),
        _split_rule(of_shared_classes, now, fit, len(champion.answers), relabelled, "split" in accepted),
    ]
    return Shared(
        image_ids=fit,
        classes=classes,
        labels=np.array([place[challenger.answers[one][0]] for one in fit], np.int64),
        champion=_spread(champion, fit, place),
        challenger=_spread(challenger, fit, place),
        rules=rules,
    )


def _spread(model: Contender, image_ids: Sequence[str], place: Mapping[str, int]) -> npt.NDArray[np.float64]:
    found = np.zeros((len(image_ids), len(place)))
    columns = [place[label] for label in model.classes]
    for row, image_id in enumerate(image_ids):
        found[row, columns] = model.answers[image_id][1]
    return found


def _class_rule(
    champion: Contender, challenger: Contender, both: Sequence[str], accepted: bool, left_out: int
) -> dict[str, Any]:
    gone = [label for label in champion.classes if label not in both]
    new = [label for label in challenger.classes if label not in both]
    changed = bool(gone or new)
    said = f"the same {len(both)} classes"
    if changed:
        changes = [f"{word} {', '.join(labels)}" for word, labels in (("without", gone), ("new:", new)) if labels]
        said = (
            f"{'; '.join(changes)}: compared on the images of the {len(both)} classes that both know, "
            f"{left_out:,} of the champion's test images left out"
        )
        said += "" if accepted else "; whoever uses the model must know of it: --accept classes"
    return {
        "name": "class-set-changed",
        "passed": not changed or accepted,
        "said": said,
        "changed": changed,
        "accepted": accepted,
        "gone": gone,
        "new": new,
    }


def _split_rule(
    before: set[str], now: set[str], fit: Sequence[str], whole: int, relabelled: int, accepted: bool
) -> dict[str, Any]:
    changed = before != now
    gone = len(before - now)
    beyond = gone > GONE_MOST * len(before)
    said = f"the same {len(fit):,} test images"
    if changed:
        said = (
            f"compared on {len(fit):,} images of both tests that neither trained on; {gone:,} of the champion's "
            f"{len(before):,} are not in this test, {len(now - before):,} are new"
        )
    if relabelled:
        said += f"; {relabelled:,} have another label than then, the new one counts"
    # Who takes images out of the test chooses what is compared; images that came later are simply not compared.
    if beyond and not accepted:
        said += f"; more than {GONE_MOST:.0%} left the test: --accept split if that is meant"
    # A whole test may be small: its size is the project's choice. What is left of one must still say something.
    few = len(fit) < LEAST and len(fit) < whole
    if few:
        said += f"; at least {LEAST} are needed"
    return {
        "name": "test-split-changed",
        "passed": bool(fit) and not few and (not beyond or accepted),
        "said": said,
        "changed": changed,
        "accepted": accepted,
        "images": len(fit),
        "gone": gone,
        "new": len(now - before),
        "trained_on": len(before & now) - len(fit),
        "relabelled": relabelled,
        "least_images": LEAST,
        "needs_accept": beyond and not accepted,
    }
