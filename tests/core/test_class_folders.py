"""How trees of paths are read as classes and splits."""

from __future__ import annotations

import pytest

from stages.core import class_folders, file_names


def read(*files: str, folders: tuple[str, ...] = ()) -> dict[str, tuple[str, str | None]]:
    layout = class_folders.arrange(files, folders)
    return {placed.name: (placed.label, placed.given_split) for placed in layout.placed}


def test_class_folders_and_what_lies_deeper_in_them() -> None:
    assert read("cats/1.jpg", "cats/old/train/2", "dogs/3.txt") == {
        "cats/1.jpg": ("cats", None),
        "cats/old/train/2": ("cats", None),
        "dogs/3.txt": ("dogs", None),
    }


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "validation", "test"), ("train", "val", "test")),
        (("Training", "VALID", "Testing"), ("train", "val", "test")),
        (("train", "val"), ("train", "val")),
        (("TRAIN",), ("train",)),
    ],
)
def test_splits_by_their_usual_names(names: tuple[str, ...], splits: tuple[str, ...]) -> None:
    assert read(*(f"{name}/cats/1.jpg" for name in names)) == {
        f"{name}/cats/1.jpg": ("cats", split) for name, split in zip(names, splits, strict=True)
    }


def test_split_names_are_classes_unless_all_are_and_one_is_train() -> None:
    assert read("val/cats/1.jpg", "test/cats/1.jpg")["val/cats/1.jpg"] == ("val", None)
    layout = class_folders.arrange(["train/cats/1.jpg", "val/cats/1.jpg", "extra/1.jpg"], [])
    assert layout.classes == {"train", "val", "extra"}
    assert layout.beside_splits == ["extra"]


def test_images_right_in_a_split_have_no_class() -> None:
    layout = class_folders.arrange(["train/cats/1.jpg", "train/dogs/1.jpg", "test/1.jpg"], [])
    assert layout.classes == {"cats", "dogs"}
    assert layout.skipped == {"test/1.jpg": "no_class"}


def test_wrapping_folders_are_looked_through() -> None:
    layout = class_folders.arrange(
        ["data/set/vectorize.py", "data/set/train/cats/1.jpg", "data/set/validation/dogs/2.jpg", "read.me"], []
    )
    assert [(p.name, p.path, p.label, p.given_split) for p in layout.placed] == [
        ("train/cats/1.jpg", "data/set/train/cats/1.jpg", "cats", "train"),
        ("validation/dogs/2.jpg", "data/set/validation/dogs/2.jpg", "dogs", "val"),
    ]
    assert layout.skipped == {"data/set/vectorize.py": "no_class", "read.me": "no_class"}


def test_a_folder_with_images_of_its_own_is_no_wrapping() -> None:
    assert class_folders.arrange(["cats/1.jpg", "cats/old/2.jpg"], []).classes == {"cats"}


def test_empty_class_folders_are_classes() -> None:
    assert class_folders.arrange(["cats/1.jpg"], ["dogs", "cats"]).classes == {"cats", "dogs"}
    assert class_folders.arrange(["train/cats/1.jpg"], ["val/dogs"]).classes == {"cats", "dogs"}


def test_litter_is_skipped_and_named_once_by_its_topmost_folder() -> None:
    layout = class_folders.arrange(
        ["__MACOSX/cats/._1.jpg", "__MACOSX/x", "cats/.DS_Store", "cats/Thumbs.db", "cats/1.jpg", "dogs/2"],
        ["__MACOSX", ".git"],
    )
    assert layout.classes == {"cats", "dogs"}
    assert [placed.name for placed in layout.placed] == ["cats/1.jpg", "dogs/2"]
    assert layout.skipped == dict.fromkeys(["__MACOSX", "cats/.DS_Store", "cats/Thumbs.db", ".git"], "litter")


def test_printable_names_are_valid_and_stay_different() -> None:
    raw = ["caf\udce9", "caf\\xe9", "café", "caf\udce8", "a\nb", "🐈"]
    shown = [file_names.printable(name) for name in raw]
    assert shown == ["caf\\xe9", "caf\\\\xe9", "café", "caf\\xe8", "a\nb", "🐈"]
    for name in shown:
        name.encode()


@pytest.mark.parametrize("name", ["../x", "a/../b", "/etc/x", "C:/x", "c:x", "..\\x", "a\\b", "a\0b", ""])
def test_dangerous_names(name: str) -> None:
    assert file_names.danger(name)


@pytest.mark.parametrize("name", ["a/b.jpg", "./a", "a..b/c..", "...", "-rf", "=cmd()", "ab:c", "<script>"])
def test_odd_but_harmless_names(name: str) -> None:
    assert file_names.danger(name) is None
