import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from w2v_compress.data import audio as module
from w2v_compress.data.audio import SILENCE, decode_file, open_audio, read_audio
from w2v_compress.data.normalization import Moments, normalize
from w2v_compress.errors import AudioError, InputError


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(rate: int) -> None:
    audio = read_audio(tone(rate), rate)
    assert audio.dtype == np.float32
    assert abs(audio.size - 16_000) <= 1
    middle = slice(1_000, 15_000)  # the resampling filter has no context at the ends
    np.testing.assert_allclose(audio[middle], tone(16_000)[middle], atol=2e-3)


def test_samples_at_16_khz_are_unchanged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(16_000), 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav"), tone(16_000))
    np.testing.assert_array_equal(read_audio(str(tmp_path / "a.wav")), read_audio(tone(16_000), 16_000))


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "aiff"])
def test_formats(kind: str, encoded, speech, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind))
    audio = read_audio(path)
    assert audio.size == 48_000
    assert np.corrcoef(audio, speech(3.0))[0, 1] > (0.7 if kind in ("ogg", "opus") else 0.999)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(16_000), tone(16_000, hertz=660)
    both = np.stack([left, right], axis=1)
    np.testing.assert_allclose(read_audio(both, 16_000), (left + right) / 2, atol=1e-7)
    soundfile.write(tmp_path / "a.wav", both, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 16_384, -32_768], np.int16), [0, 0.5, -1]),
        (np.array([0, 2**30, -(2**31)], np.int32), [0, 0.5, -1]),
        (np.array([128, 192, 0], np.uint8), [0, 0.5, -1]),
        ([0.0, 0.5, -1.0], [0, 0.5, -1]),
    ],
)
def test_arrays_of_integers_are_scaled(samples: object, expected: list[float]) -> None:
    np.testing.assert_array_equal(read_audio(samples, 16_000), expected)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0, np.float32), 16_000, "holds no samples"),
        (np.zeros((0, 2), np.float32), 16_000, "holds no samples"),
        (np.array([0.1, np.nan]), 16_000, "not finite"),
        (np.array([0.1, np.inf]), 8_000, "not finite"),
        (np.array([0.1, 1e300]), 16_000, "not finite"),
        (np.zeros((2, 16_000), np.float32), 16_000, "16000 channels"),
        (np.zeros((2, 2, 2), np.float32), 16_000, r"shape is \(2, 2, 2\)"),
        (np.zeros(10, np.int64), 16_000, "type is int64"),
        (np.array(["a"]), 16_000, "must be floats"),
        ([[0.0], [0.0, 1.0]], 16_000, "cannot be read as an array"),
        (np.zeros(10, np.float32), None, "`rate`"),
        (np.zeros((5, 0), np.float32), 16_000, "holds no samples"),
        (np.zeros(10, np.bool_), 16_000, "type is bool"),
        (None, 16_000, "type is object|shape is"),
        (np.zeros(10, np.float32), 100, "100 Hz"),
        (np.zeros(10, np.float32), "fast", "fast Hz"),
        (np.zeros(10, np.float32), 10**6, "1000000 Hz"),
    ],
)
def test_invalid_arrays_are_rejected(samples: object, rate: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_audio(samples, rate)


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "opus", "aiff", "mp3"])
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.999])
def test_truncated_files_are_rejected(kind: str, fraction: float, encoded, tmp_path: Path) -> None:
    whole = encoded(kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(AudioError, match=r"cut\.\w+: .*cut short") as caught:
        read_audio(path)
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_ogg_truncated_between_pages_is_rejected(kind: str, encoded, tmp_path: Path) -> None:
    # all remaining pages are complete; only the end-of-stream flag is missing
    whole = encoded(kind)
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: whole.rindex(b"OggS")])
    with pytest.raises(AudioError, match="cut short"):
        read_audio(path)


def test_wav_of_unknown_length_is_read(encoded, tmp_path: Path) -> None:
    # as ffmpeg writes to a pipe
    whole = bytearray(encoded("wav"))
    whole[4:8] = whole[40:44] = b"\xff" * 4
    (tmp_path / "pipe.wav").write_bytes(whole)
    assert read_audio(tmp_path / "pipe.wav").size == 48_000


def test_wav_with_a_chunk_before_and_after_its_data(encoded, tmp_path: Path) -> None:
    whole = encoded("wav")
    odd = b"LIST\x05\x00\x00\x00INFOx\x00"
    (tmp_path / "a.wav").write_bytes(whole[:36] + odd + whole[36:] + odd)
    assert read_audio(tmp_path / "a.wav").size == 48_000
    (tmp_path / "b.wav").write_bytes((whole[:36] + odd + whole[36:])[:-2])
    with pytest.raises(AudioError, match="cut short"):
        read_audio(tmp_path / "b.wav")


def test_flac_of_unknown_length_is_rejected(encoded, tmp_path: Path) -> None:
    whole = bytearray(encoded("flac"))
    whole[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    whole[22:26] = bytes(4)
    (tmp_path / "pipe.flac").write_bytes(whole)
    with pytest.raises(AudioError, match="gives no length"):
        read_audio(tmp_path / "pipe.flac")


def test_damaged_flac_is_rejected(encoded, tmp_path: Path) -> None:
    whole = bytearray(encoded("flac"))
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "a.flac").write_bytes(whole)
    with pytest.raises(AudioError, match="damaged"):
        read_audio(tmp_path / "a.flac")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.wav", b"this is not audio", "unreadable"),
        ("text.raw", b"this is not audio", "unreadable"),
        ("nothing.wav", b"", "empty"),
        ("absent.wav", None, "missing"),
        ("", None, "unreadable"),
    ],
)
def test_invalid_files_are_rejected(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_without_samples_is_rejected(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.float32), 16_000)
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(tmp_path / "a.wav")


def test_a_rate_with_a_path_is_rejected(encoded, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("wav"))
    with pytest.raises(InputError, match="`rate`"):
        read_audio(tmp_path / "a.wav", 8_000)


def test_overlong_files_are_rejected(encoded, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("wav"))
    assert decode_file(tmp_path / "a.wav", max_seconds=3.0).samples.shape == (48_000, 1)
    with pytest.raises(AudioError, match=r"lasts 3\.00 s; at most 2\.9 s") as caught:
        decode_file(tmp_path / "a.wav", max_seconds=2.9)
    assert caught.value.reason == "overlong"


@pytest.mark.parametrize(
    ("samples", "silent"),
    [
        (np.zeros(16_000), True),
        (np.full(16_000, 0.3), True),  # a constant is silent
        (np.tile([-SILENCE, SILENCE], 8_000), True),
        (np.tile([-2 * SILENCE, 2 * SILENCE], 8_000), False),
    ],
)
def test_silence(samples: np.ndarray, silent: bool) -> None:
    assert read_audio(samples, 16_000).size == 16_000
    if silent:
        with pytest.raises(AudioError, match="silence"):
            read_audio(samples, 16_000, allow_silence=False)
    else:
        assert read_audio(samples, 16_000, allow_silence=False).size == 16_000


def test_opposite_channels_cancel_to_silence() -> None:
    with pytest.raises(AudioError, match="silence"):
        read_audio(np.stack([tone(16_000), -tone(16_000)], axis=1), 16_000, allow_silence=False)


def test_normalize_is_the_layer_norm_of_fairseq(speech) -> None:
    torch = pytest.importorskip("torch")
    for audio in (speech(1.0) + 0.3, 1e-4 * speech(0.1)):  # the second is small enough for the epsilon to matter
        expected = torch.nn.functional.layer_norm(torch.from_numpy(audio), audio.shape).numpy()
        np.testing.assert_allclose(normalize(audio), expected, atol=1e-5)


FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "aiff": ("AIFF", "PCM_24"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_blocks_of_a_file_equal_soundfile_and_soxr_on_the_whole_file(
    kind: str, rate: int, channels: int, speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{kind}"
    container, subtype = FORMATS[kind]
    soundfile.write(path, speech(1.0, rate, channels), rate, format=container, subtype=subtype)
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = soxr.resample(whole.mean(1), rate, 16_000) if rate != 16_000 else whole[:, 0]
    monkeypatch.setattr(module, "BLOCK_VALUES", 2_001)
    source = open_audio(path)
    assert source.rate == rate
    for _ in range(2):
        blocks = list(source.blocks())
        assert len(blocks) > 6
        np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100])
def test_blocks_of_an_array(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = (2**15 * np.stack([tone(rate), tone(rate, hertz=660)], axis=1)).astype(np.int16)
    whole = (samples / 2.0**15).mean(1).astype(np.float32)
    expected = whole if rate == 16_000 else soxr.resample(whole, rate, 16_000)
    monkeypatch.setattr(module, "BLOCK_VALUES", 1_000)
    blocks = list(open_audio(samples, rate).blocks())
    assert len(blocks) > 15
    np.testing.assert_allclose(np.concatenate(blocks), expected, rtol=0, atol=1e-6)


def test_arrays_are_not_copied() -> None:
    samples = tone(16_000, seconds=60.0)
    blocks = list(open_audio(samples, 16_000).blocks())
    assert len(blocks) > 1
    assert all(np.shares_memory(block, samples) for block in blocks)


def test_blocks_before_an_error_are_read(speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_VALUES", 8_000)
    encoded = io.BytesIO()
    soundfile.write(encoded, speech(10.0), 16_000, format="FLAC", subtype="PCM_16")
    damaged = bytearray(encoded.getvalue())
    damaged[len(damaged) * 3 // 4] ^= 0xFF
    (tmp_path / "damaged.flac").write_bytes(damaged)
    holed = speech(10.0)
    holed[-10] = np.nan
    soundfile.write(tmp_path / "holed.wav", holed, 16_000, subtype="FLOAT")
    for name, message in (("damaged.flac", "damaged"), ("holed.wav", "not finite")):
        blocks = open_audio(tmp_path / name).blocks()
        assert all(len(next(blocks)) == 8_000 for _ in range(10))
        with pytest.raises(AudioError, match=message):
            list(blocks)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_moments_of_blocks_equal_those_of_all_samples(offset: float, speech) -> None:
    audio = speech(2.0) + np.float32(offset)
    audio[:5_000] *= np.float32(0.5)
    moments = Moments()
    for block in np.split(audio, [0, 1, 700, 701, 20_000]):
        moments.add(block)
    wide = audio.astype(np.longdouble)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    assert moments.count == 32_000
    np.testing.assert_allclose(moments.normalize(audio[300:900]), expected[300:900].astype(np.float64), atol=1e-6)
    np.testing.assert_allclose(moments.normalize(audio), normalize(audio), rtol=0, atol=1e-6)


class Pipe(io.RawIOBase):
    """A file object that cannot seek."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        return self._content.readinto(buffer)


@pytest.mark.parametrize("kind", ["wav", "flac", "opus"])
def test_bytes_and_file_objects_equal_the_file(kind: str, encoded, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind))
    expected = read_audio(path)
    content = path.read_bytes()
    with path.open("rb") as file:
        for source in (content, bytearray(content), io.BytesIO(content), file, Pipe(content)):
            opened = open_audio(source)
            for _ in range(2):  # sources are read twice for long audio
                np.testing.assert_array_equal(np.concatenate(list(opened.blocks())), expected)
    assert open_audio(path.open("rb")).name == str(path)


def test_invalid_file_objects_are_rejected(encoded, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav"))
    closed = path.open("rb")
    closed.close()
    for source, message in (
        (b"", "audio stream: the file is empty"),
        (b"no audio" * 100, "audio stream: is damaged, cut short, or not audio"),
        (path.read_bytes()[:-100], "audio stream: is cut short"),
        (closed, f"{path}: cannot be read: "),
        (path.open(encoding="latin-1"), f"{path}: was opened as text"),
    ):
        with pytest.raises(InputError) as caught:
            read_audio(source)
        assert str(caught.value).startswith(message)
    with pytest.raises(InputError, match="audio stream: `rate` goes with an array only"):
        read_audio(path.read_bytes(), 16_000)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_with_a_placeholder_length_is_read(encoded, size: int) -> None:
    content = bytearray(encoded("wav"))
    place = content.index(b"data") + 4
    for start in (4, place):
        content[start : start + 4] = size.to_bytes(4, "little")
    np.testing.assert_array_equal(read_audio(bytes(content)), read_audio(encoded("wav")))
