"""Labels that mean something to a shell, a browser, a spreadsheet, a file system, XML or a list parted by blanks."""

from __future__ import annotations

LABELS = [
    "__proto__", "../x", "-rf", "=cmd()", "+1", "@SUM(1)", "\tx", "<script>alert(1)</script>", "a\nb", "\u202egpj",
    "$(touch pwned)", "`touch pwned`", "x; touch pwned", "{{ x }}", "%s %n", "con", "🐈", "'\"&",
]  # fmt: skip
