"""Compressed files as chunks of what they hold; no more than a chunk is in memory."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import zstandard

from stages.store.archive_members import CHUNK, damage_in

XZ_MEMORY = 2**28  # bytes; `xz -9`, the largest setting, needs a quarter of it


def chunks(path: Path, kind: str) -> Iterator[bytes]:
    """The bytes inside a file of one of KINDS. Raises IntegrityError where it is damaged or ends early."""
    with path.open("rb") as packed:
        stream = KINDS[kind](packed)
        while True:
            with damage_in(path):
                chunk = next(stream, None)
            if chunk is None:
                return
            yield chunk


def _gzip(packed: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=packed, mode="rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _zstd(packed: IO[bytes]) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor()
    with decoder.stream_reader(packed, read_across_frames=True, closefd=False) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _xz(packed: IO[bytes]) -> Iterator[bytes]:
    """By hand, because lzma.open knows no bound on memory: a header may ask for 4 GiB."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    while True:
        data = b""
        if decoder.eof:  # another stream may follow, after padding with zeros
            data = decoder.unused_data.lstrip(b"\0") or packed.read(CHUNK).lstrip(b"\0")
            if not data:
                return
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        elif decoder.needs_input:
            data = packed.read(CHUNK)
            if not data:
                raise EOFError("the compressed stream ends early")
        yield decoder.decompress(data, CHUNK)


KINDS = {"tar.gz": _gzip, "tar.xz": _xz, "tar.zst": _zstd}
