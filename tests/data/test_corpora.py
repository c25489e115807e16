from collections import Counter
from pathlib import Path

import pytest

from w2v_compress.data.corpora import PAUSES, Recording, join_recordings, read_csv, read_fsdd, read_librispeech
from w2v_compress.errors import InputError


def test_csv(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text('\ufeffid,text,path,split\n1,"Well, yes",a/1.wav,train\n2,,/else/2.wav\n', encoding="utf-8")
    assert read_csv(table) == [
        Recording((tmp_path / "a/1.wav",), "Well, yes", "train"),
        Recording((Path("/else/2.wav"),), "", ""),
    ]
    with pytest.raises(InputError, match=r"utterances\.csv: cannot be read"):
        read_csv(tmp_path)
    table.rename(tmp_path / "utterances.csv")
    assert len(read_csv(tmp_path)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "column 'path' is missing; its columns are none"),
        (b"path,split\na,b\n", "column 'text' is missing; its columns are path, split"),
        (b"path,text,split\n\xff,a,train\n", "not a CSV file in UTF-8"),
        (b"path,text,split\na\0.wav,A,train\n", "NUL"),
        (b"path,text,split\n" + b"a" * 200_000 + b",A,train\n", "not a CSV file"),
    ],
)
def test_invalid_csv_files_are_rejected(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_csv(tmp_path / "a.csv")


def test_librispeech(tmp_path: Path) -> None:
    for split, speaker, chapter in (("dev-clean", "84", "121123"), ("train-clean-100", "103", "1240")):
        folder = tmp_path / split / speaker / chapter
        folder.mkdir(parents=True)
        name = f"{speaker}-{chapter}"
        (folder / f"{name}.trans.txt").write_text(f"{name}-0000 GO DO\n{name}-0001 YOU HEAR\n")
        for index in (0, 2):
            (folder / f"{name}-000{index}.flac").touch()
    recordings = read_librispeech(tmp_path)
    found = [(recording.parts[0].name, recording.text, recording.split) for recording in recordings]
    assert found == [
        ("84-121123-0000.flac", "GO DO", "dev-clean"),
        ("84-121123-0001.flac", "YOU HEAR", "dev-clean"),  # the audio is missing, which `prepare` reports
        ("84-121123-0002.flac", "", "dev-clean"),  # no transcript
        ("103-1240-0000.flac", "GO DO", "train-clean-100"),
        ("103-1240-0001.flac", "YOU HEAR", "train-clean-100"),
        ("103-1240-0002.flac", "", "train-clean-100"),
    ]
    assert recordings[0].parts[0] == tmp_path / "dev-clean/84/121123/84-121123-0000.flac"


@pytest.mark.parametrize(
    ("reader", "message"), [(read_librispeech, r"\*\.trans\.txt"), (read_fsdd, "neither recordings")]
)
def test_other_folders_are_rejected(reader, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        reader(tmp_path)


def test_fsdd_repository(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for name in ("0_jackson_4", "7_theo_5", "7_theo_9", "9_lucas_10"):
        (tmp_path / "recordings" / f"{name}.wav").touch()
    found = {(recording.text, recording.split, recording.speaker) for recording in read_fsdd(tmp_path)}
    assert found == {
        ("ZERO", "test", "jackson"),
        ("SEVEN", "dev", "theo"),
        ("NINE", "train", "lucas"),
    }
    (tmp_path / "recordings" / "noise.wav").touch()
    with pytest.raises(InputError, match=r"noise\.wav: its name"):
        read_fsdd(tmp_path)


def test_fsdd_table(tmp_path: Path) -> None:
    (tmp_path / "utterances.csv").write_text("path,text,split,speaker\na.flac,ONE,dev,theo\n")
    assert read_fsdd(tmp_path) == [Recording((tmp_path / "a.flac",), "ONE", "dev", speaker="theo")]


@pytest.fixture
def digits() -> list[Recording]:
    """Two speakers in each of two splits, 40 recordings each in train and 10 in dev."""
    return [
        Recording((Path(f"{split}-{speaker}-{index}.wav"),), f"D{index}", split, speaker=speaker)
        for split, count in (("train", 40), ("dev", 10))
        for speaker in ("a", "b")
        for index in range(count)
    ]


def test_joining_stays_within_speaker_and_split(digits: list[Recording]) -> None:
    joined = join_recordings(digits, (3, 7))
    last = {(string.split, string.speaker): string for string in joined}
    for string in joined:
        assert 3 <= len(string.parts) <= 7 or string is last[string.split, string.speaker]
        assert {part.name.rsplit("-", 1)[0] for part in string.parts} == {f"{string.split}-{string.speaker}"}
        assert string.text.split() == [f"D{part.stem.rsplit('-', 1)[1]}" for part in string.parts]
        assert len(string.pauses) == len(string.parts) - 1
        assert all(PAUSES[0] <= pause <= PAUSES[1] for pause in string.pauses)
    assert {len(string.parts) for string in joined} >= {3, 4, 5, 6, 7}
    assert len({str(string) for string in joined}) == len(joined)


def test_joining_uses_each_recording_once(digits: list[Recording]) -> None:
    joined = join_recordings(digits, (3, 7))
    assert Counter(part for string in joined for part in string.parts) == Counter(part.parts[0] for part in digits)


def test_a_count_uses_training_recordings_evenly(digits: list[Recording]) -> None:
    joined = join_recordings(digits, (3, 7), count=400)
    assert Counter(string.speaker for string in joined if string.split == "train") == {"a": 200, "b": 200}
    uses = Counter(part for string in joined for part in string.parts)
    in_training = [count for part, count in uses.items() if part.name.startswith("train-a")]
    assert len(uses) == len(digits)
    assert max(in_training) <= min(in_training) + 1
    assert {count for part, count in uses.items() if part.name.startswith("dev")} == {1}


def test_joining_is_seeded(digits: list[Recording]) -> None:
    assert join_recordings(digits, (2, 4), seed=1) == join_recordings(digits, (2, 4), seed=1)
    assert join_recordings(digits, (2, 4), seed=1) != join_recordings(digits, (2, 4), seed=2)


def test_joining_needs_speakers(digits: list[Recording]) -> None:
    with pytest.raises(InputError, match="speaker is not known"):
        join_recordings([*digits, Recording((Path("x.wav"),), "ONE", "dev")], (2, 4))


def test_names_of_speakers_cannot_leave_the_folder() -> None:
    recordings = [Recording((Path("x.wav"),), "ONE", "dev", speaker="../../x")]
    assert str(join_recordings(recordings, (2, 2))[0]) == "dev/______x-00000"
