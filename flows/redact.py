"""Takes passwords out of what is shown: addresses with credentials, and key = value pairs that name a secret."""

from __future__ import annotations

import re

IN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+(?=@)")
NAMED = re.compile(
    r"(?i)\b((?:[a-z0-9]+[_-])*(?:password|passwd|secret|token|passphrase|(?:access|account|api|private)_key(?:_id)?|connection_string|auth_string)\b['\"]?\s*[=:]\s*['\"]?)"
    r"[^\s'\",}]+"
)


def has_login(value: object) -> bool:
    """Whether a value is an address with credentials."""
    return isinstance(value, str) and IN_ADDRESS.search(value) is not None


def redact(text: str) -> str:
    """The text with each secret replaced by ***."""
    return NAMED.sub(r"\1***", IN_ADDRESS.sub("***", text))
