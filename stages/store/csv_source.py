"""A CSV that names image files beside or below it, with a label each."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import NamedTuple

from stages.core import class_folders, file_names
from stages.core.errors import DataRejected
from stages.store import folder_files
from stages.store.columns import Columns, label_of, split_of
from stages.store.records import Record, Source

log = logging.getLogger(__name__)


class _Row(NamedTuple):
    line: int
    label: str
    given_split: str | None


def from_csv(path: Path, columns: Columns, max_missing_fraction: float) -> Source:
    """The images that rows name, relative to the CSV's folder.

    Rows without a file and image files without a row are skipped, by name. Raises DataRejected where
    they are more than `max_missing_fraction` of all rows and such files, or where the table is wrong.
    """
    rows = _rows(path, columns)
    tree = folder_files.walk(path.parent)
    not_regular = set(tree.not_regular)
    skipped = dict.fromkeys(tree.not_regular, "not_regular_file")
    missing = [name for name in rows if name not in tree.files]
    skipped |= {name: "no_file" for name in missing if name not in not_regular}
    no_row = [name for name in tree.files if name not in rows and _is_image(name)]
    skipped |= dict.fromkeys(no_row, "no_row")
    _check_missing(path, missing, no_row, len(rows), max_missing_fraction)
    records = [
        Record(name, row.label, row.given_split, tree.files[name].size, name)
        for name, row in rows.items()
        if name in tree.files
    ]
    classes = sorted({row.label for row in rows.values()})
    return Source("csv", records, classes, skipped, lambda record: folder_files.read(*tree.files[record.place][:2]))


def _rows(path: Path, columns: Columns) -> dict[str, _Row]:
    """The table by file name. Raises DataRejected naming the line that is wrong."""
    rows: dict[str, _Row] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or [])
            if columns.file not in header or columns.label not in header:
                raise DataRejected(
                    f"{path}: has the columns {header}; needs {columns.file!r} (download.file_column) and "
                    f"{columns.label!r} (download.label_column)"
                )
            if len(set(header)) < len(header):
                raise DataRejected(f"{path}: a column name stands twice in {header}; each must be unique")
            for row in reader:
                place = f"{path} line {reader.line_num}"
                if None in row or None in row.values():
                    raise DataRejected(f"{place}: has other than the header's {len(header)} fields")
                name = _name(row[columns.file], place)
                label = label_of(row[columns.label], place)
                if name in rows:
                    raise DataRejected(
                        f"{place}: {name!r} stands on line {rows[name].line} already; keep one row a file"
                    )
                rows[name] = _Row(reader.line_num, label, split_of(row.get(columns.split), place))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataRejected(f"{path}: not readable as a UTF-8 CSV ({error})") from error
    return rows


def _name(text: str, place: str) -> str:
    inside = file_names.inside(text)
    if not inside or "\0" in text:
        raise DataRejected(f"{place}: received the file {text!r}; must be a path below the CSV's folder, without '..'")
    return file_names.printable(inside)


def _is_image(name: str) -> bool:
    return class_folders.is_image_name(name) and not any(map(class_folders.is_litter, name.split("/")))


def _check_missing(path: Path, missing: list[str], no_row: list[str], rows: int, allowed: float) -> None:
    if not missing and not no_row:
        return
    share = (len(missing) + len(no_row)) / (rows + len(no_row))
    found = (
        f"{path}: {len(missing)} rows without a file{_first(missing)}; {len(no_row)} image files without "
        f"a row{_first(no_row)}; together {share:.2%}"
    )
    if share > allowed:
        raise DataRejected(f"{found}, download.max_missing_fraction allows {allowed:.2%}")
    log.warning("%s, within download.max_missing_fraction; all are listed in dataset.json", found)


def _first(names: list[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(repr(name) for name in sorted(names)[:10])
    return f" ({shown}{', …' if len(names) > 10 else ''})"
