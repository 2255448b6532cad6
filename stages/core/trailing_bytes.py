"""How many bytes of an image file lie behind the picture's own end.

Decoders stop at that end, so these bytes change no pixel. They are often rubbish of a transfer or of a repaired disk,
but not always: phones and cameras put more of their own there, as the second picture of a multi-picture file
(CIPA DC-007), a gain map or a short film. Which of them it is is not looked at; all are counted alike.
"""

from __future__ import annotations

import re

# A file of more segments or chunks is not walked to its end: 64 million pixels in chunks of 1 KB have fewer.
MAX_PARTS = 2**18

# ITU-T T.81, B.1.1: 0xFF and a code. In a scan 0xFF 0x00 is a value, 0xFF 0xFF a fill byte, and 0xD0 to 0xD7 restart
# it; these and 0x01 stand alone, so that outside of a scan they can be passed over as well.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_START, _END = 0xD8, 0xD9  # of an image


def count(data: bytes, format: str | None) -> int | None:
    """Bytes behind the end of a JPEG or PNG, 0 where there are none; `format` as of `images.sniff`.

    None for other formats, and where no end is found: the file is cut or broken, or has over MAX_PARTS parts.
    Of a JPEG the end is the first end-of-image marker that lies outside of all segments, so not a thumbnail's;
    of a PNG it is the IEND chunk. Whether a file is cut, `images.decode` judges.
    """
    if format == "JPEG":
        end = _jpeg_end(data)
    elif format == "PNG":
        end = _png_end(data)
    else:
        return None
    return None if end is None else max(len(data) - end, 0)


def _jpeg_end(data: bytes) -> int | None:
    """Where the byte behind the end-of-image marker stands."""
    at = 2
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(data, at)
        if marker is None:
            return None
        at = marker.end()
        code = data[at - 1]
        if code == _END:
            return at
        # A segment: its length counts itself. Behind the header of a scan the search goes on through its data.
        length = int.from_bytes(data[at : at + 2], "big")
        if code == _START or length < 2:
            return None
        at += length
    return None


def _png_end(data: bytes) -> int | None:
    """Where the byte behind the last chunk would stand; beyond the data where that chunk is cut."""
    at = 8
    for _ in range(MAX_PARTS):
        if at >= len(data):
            return None
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if kind == b"IEND":
            return at
    return None
