"""Detect truncated audio files from their containers."""

import os
import struct
from typing import BinaryIO

from ..errors import AudioError

_UNKNOWN_SIZE = 0x7FFFF000
"""Smallest placeholder length: sox and ffmpeg write it, or more, into a pipe, where the length is not known."""
MAX_CHUNKS = 10_000
"""Number of chunks of a WAV or AIFF file among which its audio is looked for."""
_MAX_OGG_PAGE = 27 + 255 + 255 * 255  # bytes


def check_not_truncated(file: BinaryIO, name: object) -> None:
    """Raise `AudioError` if `file` is empty or truncated; otherwise rewind it."""
    file.seek(0)
    if not file.read(1):
        raise AudioError(name, "empty", "the file is empty")
    if _is_truncated(file):
        raise AudioError(name, "unreadable", "is cut short: it ends before the length that its header gives")
    file.seek(0)


def _is_truncated(file: BinaryIO) -> bool:
    """Whether `file` is shorter than its container states: chunk lengths (WAV, AIFF) or a missing last page (Ogg)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic = file.read(4)
    if magic == b"OggS":
        file.seek(max(0, size - _MAX_OGG_PAGE))
        return not _ends_with_last_page(file.read())
    if magic not in (b"RIFF", b"RIFX", b"FORM"):
        return False
    header = struct.Struct("<4sI" if magic == b"RIFF" else ">4sI")
    position = 12
    for _ in range(MAX_CHUNKS):
        if position + header.size > size:
            break
        file.seek(position)
        name, length = header.unpack(file.read(header.size))
        position += header.size + length
        if name in (b"data", b"SSND"):
            return bool(position > size and length < _UNKNOWN_SIZE)
        position += length % 2  # chunks start at even offsets
    return False


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether the last Ogg page in `tail` is complete and has the end-of-stream flag (RFC 3533, section 6)."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return False
    segments = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(segments) and bool(page[5] & 0x04)
