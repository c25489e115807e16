"""Audio files that claim what they do not hold are rejected in one line, by every command that reads audio."""

import gzip
import io
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_compress.data.audio import read_audio, read_unconverted
from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError

Rejects = Callable[..., None]
Run = Callable[..., tuple[int, str, str]]
DAMAGED = "is damaged, cut short, or not audio (such as wav, flac, ogg or opus)"


def wav(
    *, channels: int = 1, rate: int = 16_000, bits: int = 16, form: int = 1, data: bytes = b"\1\2" * 32, size: int = -1
) -> bytes:
    """A WAV file whose header claims `size` bytes of data; by default as many as it has."""
    size = len(data) if size < 0 else size
    frame = channels * bits // 8
    fields = struct.pack("<HHIIHH", form, channels, rate, rate * frame % 2**32, frame % 2**16, bits)
    riff = struct.pack("<I", min(36 + size, 2**32 - 1))
    return b"RIFF" + riff + b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", size) + data


def encoded(form: str, samples: np.ndarray | None = None) -> bytearray:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).normal(size=32_000)
    soundfile.write(file, noise if samples is None else samples, 16_000, format=form)
    return bytearray(file.getvalue())


def flac(total: int) -> bytes:
    """A FLAC file whose header claims `total` samples, of 36 bits."""
    content = encoded("FLAC")
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return bytes(content)


def cut(form: str) -> bytes:
    content = encoded(form)
    return bytes(content[: len(content) // 2])


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("a.wav", bytes(10_000_000))
    return file.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "an hour": (lambda: wav(size=2 * 3600 * 16_000), "is cut short: it ends before the length that its header gives"),
    "2 GB": (lambda: wav(size=0x7FFEFFFF), "is cut short: it ends before the length that its header gives"),
    "no channel": (lambda: wav(channels=0), DAMAGED),
    "65 channels": (lambda: wav(channels=65, data=bytes(1300)), "has 65 channels; 1 to 64 are allowed"),
    "1024 channels": (lambda: wav(channels=1024, data=bytes(20_480)), "has 1024 channels; 1 to 64 are allowed"),
    "65535 channels": (lambda: wav(channels=65_535, data=bytes(131_070)), DAMAGED),
    "rate of 0": (lambda: wav(rate=0), DAMAGED),
    "rate of 768 kHz": (lambda: wav(rate=768_000), "is at 768000 Hz"),
    "rate of 2^31 - 1": (lambda: wav(rate=2**31 - 1), "is at 2147483647 Hz"),
    "rate of 2^31": (lambda: wav(rate=2**31), DAMAGED),
    "0 bits": (lambda: wav(bits=0), DAMAGED),
    "65535 bits": (lambda: wav(bits=65_535), DAMAGED),
    "unknown coding": (lambda: wav(form=999), DAMAGED),
    "NaN": (
        lambda: wav(form=3, bits=32, data=struct.pack("<f", float("nan")) * 16),
        "has samples that are not finite numbers",
    ),
    "FLAC of 2^36 samples": (lambda: flac(2**36 - 1), "is cut short: 32000 of 68719476735 samples can be decoded"),
    "FLAC of unknown length": (lambda: flac(0), "its header gives no length"),
    "cut FLAC": (lambda: cut("FLAC"), DAMAGED),
    "cut Ogg": (lambda: cut("OGG"), "is cut short: it ends before the length that its header gives"),
    "gzip": (lambda: gzip.compress(wav()), DAMAGED),
    "zip": (archive, DAMAGED),
    "empty": (lambda: b"", "the file is empty"),
    "header alone": (lambda: wav(data=b""), "holds no samples"),
    "zeros": (lambda: bytes(1000), DAMAGED),
    "million chunks": (lambda: b"RIFF\0\0\0\x7fWAVE" + b"junk\0\0\0\0" * 1_000_000, DAMAGED),
}
PREPARED = {"FLAC of 2^36 samples": "lasts 4294967.30 s; at most 40 s are allowed"}
"""Why `prepare` rejects a file, where its reason is another one."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file(name: str, tmp_path: Path, rejects: Rejects) -> None:
    make, message = HOSTILE[name]
    path = tmp_path / "a.wav"
    path.write_bytes(make())
    rejects(lambda: read_audio(path), path, message)
    rejects(lambda: read_unconverted(path, name=path), path, message.partition("; 1 to")[0])
    (tmp_path / "utterances.csv").write_text("path,text,split\na.wav,A,train\n")
    with pytest.raises(InputError, match="the split 'train' has no valid utterance; 1 rejected"):
        prepare("csv", tmp_path, tmp_path / "out")
    rejected = (tmp_path / "out" / "rejected.tsv").read_text()
    assert PREPARED.get(name, message) in rejected
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["rejected.tsv"]


def test_commands(tmp_path: Path, run: Run, tiny_path: Path) -> None:
    """The other files are still transcribed; `evaluate` and `quantize`, which need all, end."""
    paths = []
    for number, name in enumerate(HOSTILE):
        paths.append(tmp_path / f"{number}.wav")
        paths[-1].write_bytes(HOSTILE[name][0]())
    good = tmp_path / "good\x1b[2J.flac"
    good.write_bytes(encoded("MP3"))
    start = time.monotonic()
    status, out, err = run("transcribe", tiny_path, *paths, good, "--timestamps")
    assert status == 1
    for path, (_, message) in zip(paths, HOSTILE.values(), strict=True):
        assert sum(line.startswith(f"w2v-compress: {path}: ") and message in line for line in err.splitlines()) == 1
    assert out.startswith(f"{tmp_path}/good\\x1b[2J.flac\n")
    assert "\x1b" not in out + err
    assert time.monotonic() - start < 30
    write_manifest(tmp_path, "dev", [Utterance(paths[0], 16_000, "A")], Units.letters())
    for command in (["evaluate", tiny_path], ["quantize", tiny_path, tmp_path / "int8.safetensors", "--data"]):
        status, _, err = run(*command, tmp_path, "--subset", "dev")
        assert (status, err.count("\n")) == (1, 1), err
        assert f"{paths[0]}: is cut short" in err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_special_files(make: Callable[[Path], object], tmp_path: Path, rejects: Rejects) -> None:
    path = tmp_path / "a.wav"
    make(path)
    rejects(lambda: read_audio(path), path, "is not a file")
    rejects(lambda: read_unconverted(path, name=path), path, "is not a file")
