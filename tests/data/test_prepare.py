import csv
import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_compress.data.audio import read_audio
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.data.prepare_outputs import PrepareReport, SplitReport
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError
from w2v_compress.nn.architecture import Architecture

GOOD = ("good.wav", "Go on", "train")


def rejected(out: Path) -> list[list[str]]:
    with (out / "rejected.tsv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["path", "reason", "detail"]
    return rows


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_wav(path: Path, samples: np.ndarray, rate: int = 16_000, subtype: str = "PCM_16") -> None:
    soundfile.write(path, samples, rate, format="WAV", subtype=subtype)


@pytest.fixture
def mixed(corpus, encoded, speech) -> Path:
    """A corpus of one utterance used in place and five to convert, two of which have the same stem."""
    names = ("low.wav", "stereo.wav", "same.opus", "same.ogg", "16k.aiff")
    folder = corpus(GOOD, *((name, "YES IT'S SO", "dev" if "same" in name else "train") for name in names))
    write_wav(folder / "low.wav", speech(1.5, 8_000), 8_000)
    write_wav(folder / "stereo.wav", speech(1.0, channels=2))
    for name in ("same.opus", "same.ogg", "16k.aiff"):
        (folder / name).write_bytes(encoded(name.rsplit(".", 1)[1]))
    return folder


def test_csv_to_manifests(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = prepare("csv", mixed, out)
    assert {name: split.utterances for name, split in report.splits.items()} == {"dev": 2, "train": 4}
    assert report.splits["dev"].hours == pytest.approx(6 / 3600)
    assert report.rejected == {}
    assert rejected(out) == []
    train, dev = (list(read_manifest(out, subset)) for subset in ("train", "dev"))
    assert [utterance.path for utterance in train] == [
        out / "audio/16k.flac",
        mixed / "good.wav",
        out / "audio/low.flac",
        out / "audio/stereo.flac",
    ]
    assert [utterance.path.name for utterance in dev] == ["same.flac", "same-2.flac"]
    assert [utterance.text for utterance in train] == ["YES IT'S SO", "GO ON", "YES IT'S SO", "YES IT'S SO"]
    assert [utterance.samples for utterance in train] == [48_000, 16_000, 24_000, 16_000]
    for utterance in train + dev:
        information = soundfile.info(utterance.path)
        assert (information.samplerate, information.channels) == (16_000, 1)
        assert information.frames == utterance.samples
    # FLAC rounds to 16 bits
    np.testing.assert_allclose(read_audio(train[2].path), read_audio(mixed / "low.wav"), atol=2**-15)
    assert (out / "train.ltr").read_text().splitlines()[1] == "G O | O N |"
    assert Units.read_dictionary(out / "dict.ltr.txt") == Units.letters()


def test_the_same_corpus_gives_the_same_files(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("csv", mixed, out, workers=1)
    first = files(out)
    assert {"train.tsv", "dev.ltr", "audio/low.flac"} <= set(first)
    prepare("csv", mixed / "utterances.csv", out, workers=4)
    assert files(out) == first  # and no other file


def test_wav_on_request(mixed: Path, tmp_path: Path) -> None:
    prepare("csv", mixed, tmp_path / "out", audio_format="wav")
    assert soundfile.info(tmp_path / "out/audio/low.wav").format == "WAV"


def test_fairseq_trains_on_the_folder(mixed: Path, tmp_path: Path) -> None:
    fairseq_data = pytest.importorskip("fairseq.data")
    out = tmp_path / "out"
    prepare("csv", mixed, out)
    dataset = fairseq_data.FileAudioDataset(str(out / "train.tsv"), sample_rate=16_000, pad=True)
    dictionary = fairseq_data.Dictionary.load(str(out / "dict.ltr.txt"))
    labels = (out / "train.ltr").read_text().splitlines()
    utterances = read_manifest(out, "train")
    assert len(dataset) == len(labels) == len(utterances)
    for index, utterance in enumerate(utterances):
        np.testing.assert_array_equal(dataset[index]["source"].numpy(), read_audio(utterance.path))
        line = dictionary.encode_line(labels[index], append_eos=False, add_if_not_exist=False)
        assert line.tolist() == Units.letters().encode(utterance.text)


def test_sentencepiece(mixed: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    prepare("csv", mixed, out, units="sentencepiece", vocab_size=10)
    units = Units.read_dictionary(out / "dict.spm.txt", "sentencepiece")
    assert len(units.symbols) == 14
    assert (out / "train.spm").read_text().splitlines()[1] == units.labels("GO ON")
    assert not (out / "train.ltr").exists()
    prepare("csv", mixed, again, units="sentencepiece", dictionary=out / "dict.spm.txt")
    assert (again / "spm.model").read_bytes() == (out / "spm.model").read_bytes()
    assert (again / "dev.spm").read_bytes() == (out / "dev.spm").read_bytes()


def test_sentencepiece_is_trained_on_train_splits(corpus, encoded, tmp_path: Path) -> None:
    folder = corpus(GOOD, ("dev.flac", "ZZ", "dev"))
    (folder / "dev.flac").write_bytes(encoded("flac"))
    with pytest.raises(InputError, match="the split 'dev' has no valid utterance"):
        prepare("csv", folder, tmp_path / "out", units="sentencepiece", vocab_size=4)
    assert rejected(tmp_path / "out")[0][1:] == [
        "characters outside the units",
        "its text has Z, not among the units",
    ]


def test_text_takes_the_case_of_a_given_dictionary(corpus, tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("| 1\ng 1\no 1\nn 1\n")
    prepare("csv", corpus(GOOD), tmp_path / "out", dictionary=tmp_path / "dict.ltr.txt")
    assert (tmp_path / "out/train.ltr").read_text() == "g o | o n |\n"
    assert (tmp_path / "out/dict.ltr.txt").read_text() == "| 1\ng 1\no 1\nn 1\n"


def too_short_for(text: str) -> int:
    """Return the largest number of samples with too few frames for `text`, which has no repeated letters."""
    labels = len(Units.letters().encode(text))
    samples = 400
    while Architecture().frames(samples + 1) < labels:
        samples += 1
    return samples


REJECTED = {
    "missing": ("absent.wav", "YES", "train"),
    "unreadable": ("text.wav", "YES", "train"),
    "unreadable, cut short": ("cut.flac", "YES", "train"),
    "empty": ("empty.wav", "YES", "train"),
    "too short": ("short.wav", "YES", "train"),
    "too short, repeats": ("repeats.wav", "ALL", "train"),
    "overlong": ("long.wav", "YES", "train"),
    "non-finite": ("nan.wav", "YES", "train"),
    "silent": ("silent.wav", "YES", "train"),
    "empty text": ("unsaid.wav", " ", "train"),
    "characters outside the units": ("digits.wav", "AT 9", "train"),
    "duplicate path": ("./good.wav", "YES", "train"),
    "invalid split name": ("lost.wav", "YES", "a/b"),
    "invalid split name, ours": ("lost.wav", "YES", "rejected"),
}


@pytest.fixture
def with_invalid_files(corpus, encoded, speech) -> Path:
    """A corpus with every file in `REJECTED`, and a valid one."""
    folder = corpus(GOOD)
    (folder / "text.wav").write_text("not audio")
    (folder / "cut.flac").write_bytes(encoded("flac")[:-100])
    (folder / "empty.wav").touch()
    write_wav(folder / "short.wav", speech(too_short_for("YES") / 16_000))
    write_wav(folder / "repeats.wav", speech((too_short_for("ALE") + 1) / 16_000))
    write_wav(folder / "long.wav", speech(6.0))
    write_wav(folder / "nan.wav", np.full(16_000, np.nan), subtype="FLOAT")
    write_wav(folder / "silent.wav", np.zeros(16_000))
    for name in ("unsaid.wav", "digits.wav", "lost.wav"):
        write_wav(folder / name, speech(1.0))
    return folder


@pytest.mark.parametrize("case", REJECTED)
def test_each_reason_for_rejection(case: str, with_invalid_files: Path, corpus, tmp_path: Path) -> None:
    row, reason, out = REJECTED[case], case.split(",")[0], tmp_path / "out"
    corpus(GOOD, row)
    report = prepare("csv", with_invalid_files, out, max_seconds=5.0)
    assert report.rejected == {reason: 1}
    assert report.summary() == f"{out}: train 1 (0.00 h); 1 rejected (1 {reason})"
    [(path, written, detail)] = rejected(out)
    assert Path(path) == with_invalid_files / row[0]
    assert written == reason
    assert detail
    assert [utterance.text for utterance in read_manifest(out, "train")] == ["GO ON"]

    strict = tmp_path / "strict"
    with pytest.raises(InputError, match=f"1 rejected .1 {reason}.*strict"):
        prepare("csv", with_invalid_files, strict, max_seconds=5.0, strict=True)
    assert sorted(files(strict)) == ["rejected.tsv"]


def test_one_sample_more_is_long_enough(with_invalid_files: Path, corpus, speech, tmp_path: Path) -> None:
    # the bound of "too short" is exact, for labels alone and for a repeated one
    corpus(("short.wav", "YES", "train"), ("repeats.wav", "ALE", "train"))
    write_wav(with_invalid_files / "short.wav", speech((too_short_for("YES") + 1) / 16_000))
    assert prepare("csv", with_invalid_files, tmp_path / "out").splits["train"].utterances == 2


def test_rejections_are_counted_by_reason(with_invalid_files: Path, corpus, tmp_path: Path) -> None:
    corpus(GOOD, *REJECTED.values())
    report = prepare("csv", with_invalid_files, tmp_path / "out", max_seconds=5.0, strict=False)
    assert report.splits["train"].utterances == 1
    # lost.wav is listed twice
    assert sum(report.rejected.values()) == len(REJECTED)
    assert report.rejected["too short"] == report.rejected["unreadable"] == report.rejected["duplicate path"] == 2
    assert "14 rejected (2 " in report.summary()
    paths = [row[0] for row in rejected(tmp_path / "out")]
    assert paths == sorted(paths)


def test_a_split_without_valid_utterances(corpus, tmp_path: Path) -> None:
    folder = corpus(GOOD, ("absent.wav", "YES", "dev"))
    with pytest.raises(InputError, match=r"the split 'dev' has no valid utterance; 1 rejected \(1 missing\)"):
        prepare("csv", folder, tmp_path / "out")
    assert sorted(files(tmp_path / "out")) == ["rejected.tsv"]


def test_no_valid_utterance_at_all(corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no utterance is valid;.*invalid split name"):
        prepare("csv", corpus(("good.wav", "YES", "")), tmp_path / "out")
    with pytest.raises(InputError, match="has no utterances"):
        prepare("csv", corpus(), tmp_path / "out")


def test_audio_whose_path_does_not_fit_a_manifest_is_converted(corpus, speech, tmp_path: Path) -> None:
    folder = corpus(("a\tb.wav", "YES", "train"), (" c /d.wav", "NO", "train"))
    (folder / " c ").mkdir()
    for name in ("a\tb.wav", " c /d.wav"):
        write_wav(folder / name, speech(1.0))
    prepare("csv", folder, tmp_path / "out")
    assert all(path.path.is_relative_to(tmp_path / "out/audio") for path in read_manifest(tmp_path / "out", "train"))
    assert (tmp_path / "out/audio/a_b.flac").is_file()


def test_samples_beyond_full_scale_are_scaled_not_clipped(corpus, speech, tmp_path: Path) -> None:
    folder = corpus(("loud.wav", "YES", "train"))
    loud = 50 * speech(1.0, 8_000)
    write_wav(folder / "loud.wav", loud, 8_000, subtype="FLOAT")
    prepare("csv", folder, tmp_path / "out")
    written, meant = read_audio(tmp_path / "out/audio/loud.flac"), read_audio(loud, 8_000)
    np.testing.assert_allclose(written, meant / np.abs(meant).max(), atol=2**-14)


def test_other_units_beside_an_earlier_split(corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("csv", corpus(GOOD), out)
    before = files(out)
    (tmp_path / "dict.ltr.txt").write_text("| 1\nG 1\nO 1\nN 1\n")
    folder = corpus(("good.wav", "GO ON", "test"))
    with pytest.raises(InputError, match="the split 'train' there has other units"):
        prepare("csv", folder, out, dictionary=tmp_path / "dict.ltr.txt")
    assert files(out) == before
    prepare("csv", folder, out)
    assert read_manifest(out, "test")[0].path == read_manifest(out, "train")[0].path


def test_sources_are_never_overwritten(corpus, speech, tmp_path: Path) -> None:
    folder = corpus(("audio/low.flac", "YES", "train"))
    (folder / "audio").mkdir()
    soundfile.write(folder / "audio/low.flac", speech(1.0, 8_000), 8_000)
    before = files(folder)
    with pytest.raises(InputError, match="choose another OUT"):
        prepare("csv", folder, folder)
    assert files(folder) == before


def test_a_full_disk(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_some(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises(InputError, match=r"\.flac: cannot be written: No space left on device$"):
        prepare("csv", mixed, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_a_folder_that_cannot_be_created(corpus, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the folder cannot be created"):
        prepare("csv", corpus(GOOD), tmp_path / "file/out")
    with pytest.raises(InputError, match="without odd spaces"):
        prepare("csv", corpus(GOOD), tmp_path / "out\n")


@pytest.mark.parametrize(
    ("corpus_name", "options", "message"),
    [
        ("tedlium", {}, "corpus is 'tedlium'; it must be one of csv, librispeech, fsdd"),
        ("csv", {"units": "words"}, "units is 'words'; it must be one of letter, sentencepiece"),
        ("csv", {"audio_format": "mp3"}, "audio_format is 'mp3'"),
        ("csv", {"vocab_size": 10}, "vocab_size is allowed only with"),
        ("csv", {"units": "sentencepiece"}, "vocab_size is None"),
        ("csv", {"units": "sentencepiece", "vocab_size": 0}, "at least 1"),
        ("csv", {"max_seconds": 0.0}, "max_seconds is 0"),
        ("csv", {"max_seconds": float("nan")}, "max_seconds is nan"),
        ("csv", {"workers": 0}, "workers is 0"),
        ("csv", {"dictionary": Path("absent.txt")}, "absent.txt: cannot be read"),
        ("csv", {"join": "3:7"}, "join is allowed only with the corpus fsdd"),
        ("fsdd", {"join": "7:3"}, "join is '7:3'"),
        ("fsdd", {"join": "3"}, "join is '3'"),
        ("fsdd", {"join_count": 5}, "join_count is allowed only with join"),
        ("fsdd", {"join": "3:7", "join_count": 0}, "join_count is 0"),
    ],
)
def test_invalid_arguments_are_rejected(corpus_name: str, options: dict, message: str, corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        prepare(corpus_name, corpus(GOOD), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such file or folder"):
        prepare("csv", tmp_path / "absent", tmp_path / "out")


def test_joined_digits(speech, tmp_path: Path) -> None:
    folder = tmp_path / "fsdd"
    (folder / "recordings").mkdir(parents=True)
    for index in range(20):
        for digit in (3, 4):
            write_wav(folder / f"recordings/{digit}_theo_{index}.wav", speech(0.5, 8_000), 8_000)
    report = prepare("fsdd", folder, tmp_path / "out", join="2:3", join_count=20, seed=3)
    assert {name: split.utterances for name, split in report.splits.items()} == {"dev": 4, "test": 4, "train": 20}
    for utterance in read_manifest(tmp_path / "out", "dev"):
        words = utterance.text.split()
        assert 2 <= len(words) <= 3
        assert set(words) <= {"THREE", "FOUR"}
        silence = utterance.samples - 8_000 * len(words)
        assert 0.03 * (len(words) - 1) <= silence / 16_000 <= 0.25 * (len(words) - 1) + 1e-3
        assert utterance.path.parent == tmp_path / "out/audio/dev"


def test_rejected_joined_recordings_name_the_invalid_file(tmp_path: Path, speech) -> None:
    folder = tmp_path / "fsdd"
    (folder / "recordings").mkdir(parents=True)
    write_wav(folder / "recordings/1_theo_10.wav", np.zeros(8_000), 8_000)
    write_wav(folder / "recordings/1_theo_11.wav", speech(0.5, 8_000), 8_000)
    for index in (10, 11):
        write_wav(folder / f"recordings/1_lucas_{index}.wav", speech(0.5, 8_000), 8_000)
    report = prepare("fsdd", folder, tmp_path / "out", join="2:2")
    assert report.rejected == {"silent": 1}
    [(path, reason, detail)] = rejected(tmp_path / "out")
    assert (path, reason) == ("train/theo-00000", "silent")
    assert "1_theo_10.wav" in detail


def test_joined_recordings_can_be_overlong(tmp_path: Path, speech) -> None:
    folder = tmp_path / "fsdd"
    (folder / "recordings").mkdir(parents=True)
    for speaker, seconds in (("theo", 0.4), ("lucas", 0.6)):
        for index in (10, 11):
            write_wav(folder / f"recordings/1_{speaker}_{index}.wav", speech(seconds, 8_000), 8_000)
    report = prepare("fsdd", folder, tmp_path / "out", join="2:2", max_seconds=1.1)
    assert report.rejected == {"overlong": 1}
    assert rejected(tmp_path / "out")[0][0] == "train/lucas-00000"


def test_a_row_without_text_is_not_joined(speech, tmp_path: Path) -> None:
    rows = "path,text,split,speaker\na.wav,ONE,train,theo\nb.wav,,train,theo\n"
    (tmp_path / "utterances.csv").write_text(rows)
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, speech(0.5))
    report = prepare("fsdd", tmp_path, tmp_path / "out", join="2:2", join_count=1)
    assert report.rejected == {"empty text": 1}
    assert [utterance.text for utterance in read_manifest(tmp_path / "out", "train")] == ["ONE ONE"]


def test_summary() -> None:
    report = PrepareReport("out", {"dev": SplitReport(3, 0.014), "train": SplitReport(20, 1.5)}, {})
    assert report.summary() == "out: dev 3 (0.01 h), train 20 (1.50 h); none rejected"


@pytest.mark.parametrize(
    ("modules", "without"),
    [("audio, corpora, manifest, units", "torch=None, fairseq=None"), ("prepare", "fairseq=None")],
)
def test_imports(modules: str, without: str) -> None:
    # None in sys.modules makes an import fail; `prepare` may import torch through nn/
    code = f"import sys; sys.modules.update({without}); from w2v_compress.data import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
