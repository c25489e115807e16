"""Whether a compressed audio file was cut short."""

import os
import struct
from typing import BinaryIO

from ..errors import AudioError

_UNKNOWN_SIZE = 0x7FFFF000
"""Lengths from here on are what writers to a pipe, such as sox and ffmpeg, put where they cannot know the length."""
_MAX_OGG_PAGE = 27 + 255 + 255 * 255  # bytes


def check_whole(file: BinaryIO, name: object) -> None:
    """Raises `AudioError` when the file is empty or cut short; leaves it at its beginning."""
    file.seek(0)
    if not file.read(1):
        raise AudioError(name, "empty", "the file is empty")
    if _is_cut_short(file):
        raise AudioError(name, "unreadable", "is cut short: it ends before the audio that it promises")
    file.seek(0)


def _is_cut_short(file: BinaryIO) -> bool:
    """Whether the container in `file` says that more should follow: chunk lengths (WAV, AIFF), the last page (Ogg)."""
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
    while position + header.size <= size:
        file.seek(position)
        name, length = header.unpack(file.read(header.size))
        position += header.size + length
        if name in (b"data", b"SSND"):
            return position > size and length < _UNKNOWN_SIZE
        position += length % 2  # chunks start at even places
    return False


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether the last Ogg page in `tail` is whole and marked as the end of its stream (RFC 3533, section 6)."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return False
    segments = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(segments) and bool(page[5] & 0x04)
