"""File names from outside: as text that is always valid, and whether one is safe to believe."""

from __future__ import annotations

import re

MAX_LENGTH = 4096  # characters of a path; Linux has as many bytes
MAX_FOLDERS = 64  # that a file may lie in: a path in n folders is n paths, which for a name of 60 kB would be a bomb


def printable(name: str) -> str:
    r"""A file name as valid Unicode: bytes that are not UTF-8 become `\xe9`, a backslash becomes `\\`.

    Two different names stay different. `name` holds undecodable bytes as surrogates, as os.listdir does.
    """
    doubled = name.replace("\\", "\\\\")
    return doubled.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def inside(name: str) -> str | None:
    """A relative path without "." and empty parts, or None where it leads out of its folder."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if name.startswith("/") or ".." in parts else "/".join(parts)


def danger(name: str) -> str | None:
    """Why an archive member's name is refused, as "has …" or "lies …"; None where it is safe."""
    if not name or "\0" in name:
        return "has no name, or a NUL byte in it"
    if len(name) > MAX_LENGTH:
        return f"has a name of {len(name):,} characters; at most {MAX_LENGTH:,}"
    if name.count("/") > MAX_FOLDERS:
        return f"lies in {name.count('/'):,} folders; at most {MAX_FOLDERS}"
    if "\\" in name:
        return "has a backslash in its name, which some systems take for a folder separator"
    if re.match("[A-Za-z]:", name):
        return "has a drive letter"
    if inside(name) is None:
        return "has an absolute path" if name.startswith("/") else "has '..' in its path"
    return None
