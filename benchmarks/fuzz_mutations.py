"""How benchmarks.fuzz damages an input: bytes of any file, chunks of a PNG, words and lines of a params file."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Sequence

from stages.store import params

NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
LARGEST = 64 * 1024  # bytes of a damaged file
WORDS = (
    "null", "true", "no", ".nan", "-.inf", "0", "-1", "1e9", "1e-3", "0x7f", "0o7", "9" * 30, "2001-01-01", "~", "''",
    "'x; touch pwned'", '"\\0"', '"\\u202e"', '"\\ud800"', "../../home", "/etc/passwd", "=cmd()", "<script>", "[]",
    "{}", "[1, 2]", "{a: 1}", "&a", "*a", "<<: *a", "!!str", "!!int", "!x", "? ", ": ", "- ", "|", ">",
    "%YAML 1.1\n---", "---", "...", "#", "\t", "\n", "  ", "[", "]", "{", "}", ",", "'", '"', "\r", "\x85", "\u2028",
)  # fmt: skip


def mutated(target: str, rng: random.Random, known: Sequence[bytes]) -> bytes:
    """One of the known inputs, damaged in one to eight ways."""
    data = rng.choice(known)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        data = _text(rng, data, known) if target == "params" and rng.random() < 0.8 else _bytes(rng, data, known)
    if data[:4] == b"\x89PNG" and rng.random() < 0.8:
        data = with_checksums(data)
    return data[:LARGEST]


def _bytes(rng: random.Random, data: bytes, known: Sequence[bytes]) -> bytes:
    # Half of it goes to the head, where sizes and tables are.
    at = rng.randrange(len(data) + 1 if rng.random() < 0.5 else min(len(data), 128) + 1)
    match rng.randrange(9):
        case 0:
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        case 1:
            return data[:at] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]
        case 2:
            number = struct.pack(rng.choice((">I", "<I")), rng.choice(NUMBERS))
            return data[:at] + number + data[at + 4 :]
        case 3:
            number = struct.pack(rng.choice((">H", "<H")), rng.choice(NUMBERS) & 0xFFFF)
            return data[:at] + number + data[at + 2 :]
        case 4:
            return data[:at] + data[at + rng.randrange(1, 33) :]
        case 5:
            return data[:at] + rng.randbytes(rng.randrange(1, 33)) + data[at:]
        case 6:
            start = rng.randrange(len(data) + 1)
            return data[:at] + data[start : start + rng.randrange(1, 257)] + data[at:]
        case 7:
            return data[: max(at, 4)]
        case _:
            other = rng.choice(known)
            start = rng.randrange(len(other) + 1)
            return data[:at] + other[start : start + rng.randrange(1, 1025)] + data[at:]


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them, so that a decoder reads on."""
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        length = min(length, len(data) - at - 12)
        body = data[at + 4 : at + 8 + length]
        parts.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + data[at:]


def _text(rng: random.Random, data: bytes, known: Sequence[bytes]) -> bytes:
    text = data.decode("utf-8", "replace")
    match rng.randrange(5):
        case 0:
            lines = text.split("\n")
            at = rng.randrange(len(lines))
            lines[at] = rng.choice(("", lines[at] * 2, " " * rng.randrange(5) + lines[at].lstrip(), rng.choice(lines)))
            text = "\n".join(lines)
        case 1:
            lines = rng.choice(known).decode("utf-8", "replace").split("\n")
            own = text.split("\n")
            own.insert(rng.randrange(len(own) + 1), rng.choice(lines))
            text = "\n".join(own)
        case _:
            words = re.split(r"(\w+)", text)
            at = rng.randrange(len(words))
            word = rng.choice((*WORDS, *params.STAGES, rng.choice(words)))
            words[at] = rng.choice((word, words[at] + word, word * rng.choice((1, 2, 50))))
            text = "".join(words)
    return text.encode("utf-8", "surrogatepass")
