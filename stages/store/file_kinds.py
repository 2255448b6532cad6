"""What a file is, by its first bytes: names lie, and servers send error pages."""

from __future__ import annotations

from pathlib import Path

SIGNATURES = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),  # without a member
    (0, b"\x1f\x8b", "tar.gz"),
    (0, b"\xfd7zXZ\x00", "tar.xz"),
    (0, b"\x28\xb5\x2f\xfd", "tar.zst"),
    (257, b"ustar", "tar"),
    (0, b"PAR1", "parquet"),
)
HEAD = 512  # bytes


def kind_of(path: Path) -> str | None:
    """zip, tar, tar.gz, tar.xz, tar.zst, parquet, html, or None."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    for offset, signature, kind in SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "html" if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) else None
