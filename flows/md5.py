"""MD5 as DVC names content by it: of a file's bytes, and of a folder's listing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 2**20


def md5_of(path: Path) -> str:
    """Hex MD5 of a file's bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def md5_in(objects: Any, md5: str) -> str:
    """Hex MD5 of the bytes that a store of DVC's objects, as a remote's, has by this name."""
    digest = hashlib.md5(usedforsecurity=False)
    with objects.fs.open(objects.oid_to_path(md5), "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def listing_bytes(md5s: Mapping[str, str]) -> bytes:
    """DVC's object for a folder whose files have these MD5s by path: a listing as JSON, ordered by path."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s.items())]
    return json.dumps(entries, sort_keys=True).encode()


def md5_of_listing(md5s: Mapping[str, str]) -> str:
    """DVC's name for such a folder."""
    return hashlib.md5(listing_bytes(md5s), usedforsecurity=False).hexdigest() + ".dir"
