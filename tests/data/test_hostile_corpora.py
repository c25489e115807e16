"""Corpora, manifests and journals of shards that are made to do harm end in one line, and write nothing elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w2v_compress.data.corpora import read_csv
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.manifest_check import check_manifest
from w2v_compress.data.prepare import prepare
from w2v_compress.data.units import Units
from w2v_compress.shards import merge

Rejects = Callable[..., None]
Run = Callable[..., tuple[int, str, str]]
Wav = Callable[..., Path]
COLUMNS = "path,text,split\n"

TABLES: dict[str, tuple[bytes | str, str]] = {
    "field": (f"{COLUMNS}a.wav,{'A ' * 100_000},train\n", "is not a CSV file in UTF-8: field larger than field limit"),
    "quote that never ends": (f'{COLUMNS}"a.wav' + ",A,train\n" * 20_000, "field larger than field limit (131072)"),
    "NUL": (f"{COLUMNS}a\0.wav,A,train\n", "line 2: the path has a NUL character"),
    "latin-1": (COLUMNS.encode() + b"\xe9.wav,A,train\n", "is not a CSV file in UTF-8: 'utf-8' codec"),
    "utf-16": (COLUMNS.encode("utf-16"), "is not a CSV file in UTF-8: 'utf-8' codec"),
    "mixed encodings": (f"{COLUMNS}ä.wav,A,train\n".encode() + b"\xe4.wav,A,train\n", "'utf-8' codec"),
    "columns": (",".join(map(str, range(100_000))), "the column 'path' is missing; its columns are 0, 1, 2"),
    "line": (b"path,text,split\n" + b"a" * 50_000_000, "field larger than field limit (131072)"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table(name: str, tmp_path: Path, rejects: Rejects) -> None:
    content, message = TABLES[name]
    path = tmp_path / "utterances.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rejects(lambda: read_csv(path), path, message)


def test_hostile_rows_are_rejected_and_the_others_taken(tmp_path: Path, wav: Wav, run: Run) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    good = wav("corpus/good.wav", 1.0)
    rows = {
        '"line\nend.wav",A,train': "corpus/line end.wav\tmissing",
        '"tab\tbed.wav",A,train': "corpus/tab bed.wav\tmissing",
        "\x1b[2J.wav,A,train": r"corpus/\x1b[2J.wav" + "\tmissing",
        "a.wav,\x1b[2J,train": r"has \x1b 2 [, not among the units",
        "b.wav,A,../../outside": "invalid split name\tits split is '../../outside'",
        "c.wav,A,\x1b[2J": r"its split is '\x1b[2J'",
        "/dev/zero,A,train": "/dev/zero\tunreadable\tis not a file",
        "../out/dict.ltr.txt,A,train": "missing\tno such file",
        f"{'a' * 5000}.wav,A,train": "File name too long",
        ",A,train": "corpus\tunreadable\tis not a file",
    }
    (corpus / "utterances.csv").write_text(COLUMNS + "\n".join(["good.wav,A,train", *rows]))
    status, printed, err = run("prepare", "csv", corpus, out)
    assert (status, err) == (0, "")
    assert "train 1 (0.00 h); 10 rejected" in printed
    rejected = (out / "rejected.tsv").read_text()
    assert "\x1b" not in rejected
    assert len(rejected.splitlines()) == 1 + len(rows)
    for line in rows.values():
        assert line in rejected
    assert (out / "train.tsv").read_text() == f"{corpus}\n{good.name}\t16000\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out"]


def test_audio_outside_the_corpus_is_converted_into_the_output_folder(tmp_path: Path, wav: Wav) -> None:
    """Tables may name audio anywhere, also through links; the names of converted files never leave `out`."""
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for name in ("outside", "linked"):
        wav(f"{name}.wav", 1.0).rename(tmp_path / f"{name}.WAV")
    (corpus / "link.WAV").symlink_to(tmp_path / "linked.WAV")
    (corpus / "utterances.csv").write_text(f"{COLUMNS}../outside.WAV,A,train\nlink.WAV,A,train\n")
    prepare("csv", corpus, out)
    assert (out / "train.tsv").read_text().splitlines() == [
        str(out / "audio"),
        "outside.flac\t16000",
        "corpus/link.flac\t16000",
    ]


LINES: dict[str, tuple[str, str]] = {
    "digits": (f"/audio\na.wav\t{'9' * 5000}\n", "line 2 is 'a.wav\\t9999"),
    "a thousand years": (
        f"/audio\na.wav\t{10**15}\n",
        "line 2 is 'a.wav\\t1000000000000000'; it must be a path, a tab",
    ),
    "no samples": ("/audio\na.wav\t0\n", "line 2 is 'a.wav\\t0'; it must be a path, a tab and the samples"),
    "other digits": ("/audio\na.wav\t٣\n", "line 2 is 'a.wav\\t٣'; it must be a path, a tab and the samples"),
    "two tabs": ("/audio\na.wav\t1\t2\n", "line 2 is 'a.wav\\t1\\t2'; it must be a path, a tab and the samples"),
    "NUL": ("/audio\na\0.wav\t1\n", "line 2 is 'a\\x00.wav\\t1'; it must be a path, a tab and the samples"),
    "root with NUL": ("\0\na.wav\t1\n", "line 1 is '\\x00'; it must be the folder of the audio"),
    "no root": ("\na.wav\t1\n", "line 1 is ''; it must be the folder of the audio"),
    "absolute": ("/audio\n/etc/passwd\t1\n", "line 2: '/etc/passwd' leaves the folder of line 1; it must be within"),
    "parent": ("/audio\nb/../../a.wav\t1\n", "line 2: 'b/../../a.wav' leaves the folder of line 1; it must be within"),
    "line": ("/audio\n" + "a" * 50_000_000, "line 2 is 'aaaaaaaa"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_hostile_manifest(name: str, tmp_path: Path, rejects: Rejects) -> None:
    content, message = LINES[name]
    path = tmp_path / "dev.tsv"
    path.write_text(content)
    for suffix in ("wrd", "ltr"):
        (tmp_path / f"dev.{suffix}").write_text("A\n")
    rejects(lambda: read_manifest(tmp_path, "dev"), path, message)
    rejects(lambda: check_manifest(tmp_path, "dev", "ltr", "A|"), path, message)


JOB = {"verb": "prepare", "units": Units.letters().to_dict(), "splits": ["train"], "strict": False}
HEADER: dict[str, Any] = {"job": JOB, "shard": "1/1", "total": 1}
UTTERANCE: dict[str, Any] = {"path": "/audio/a.wav", "samples": 16_000, "text": "A", "split": "train"}


def journal(path: Path, header: dict[str, Any], *results: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in [json.dumps(header), *results]))


DAMAGED: dict[str, tuple[dict[str, Any], str, str]] = {
    "nesting": ({}, '{"a":' + "[" * 100_000, "line 2 is damaged; remove it and those after it (it is not JSON (it is"),
    "huge number": ({}, f'{{"a": {"9" * 5000}}}', "line 2 is damaged; remove it and those after it (it is not JSON"),
    "NaN": ({}, '{"a": NaN}', "line 2 is damaged; remove it and those after it (it is not JSON (NaN is not a finite"),
    "17 MB": ({}, '{"a": "' + "a" * 17_000_000 + '"}', "line 2 is damaged; remove it and those after it (it has 170"),
    "repeated name": ({}, '{"a": 1, "a": 2}', "(it is not JSON (the name 'a' is repeated))"),
    "list": ({}, "[1]", "(it must be a JSON object)"),
    "negative total": ({"total": -1}, "{}", "line 1 does not describe a job"),
    "total of text": ({"total": "1"}, "{}", "line 1 does not describe a job"),
    "total of 1.0": ({"total": 1.0}, "{}", "line 1 does not describe a job"),
    "job": ({"job": []}, "{}", "line 1 does not describe a job"),
    "shard": ({"shard": 5}, "{}", "line 1: shard '5' must be I/N"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_journal(name: str, tmp_path: Path, rejects: Rejects) -> None:
    changes, line, message = DAMAGED[name]
    path = tmp_path / "shard-000001-of-000001.jsonl"
    journal(path, HEADER | changes, line)
    rejects(lambda: merge(tmp_path), path, message)


MERGED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "other folder": ({"out": "/etc"}, {}, "holds shards of /etc; it must be in this folder"),
    "split": ({"splits": ["../../x"]}, {"split": "../../x"}, "its job has no valid `splits` and `strict`"),
    "split of an utterance": (
        {},
        {"split": "dev"},
        "the utterance '/audio/a.wav' has no valid path, samples and split",
    ),
    "path": ({}, {"path": "/audio/a\nb.wav"}, r"the utterance '/audio/a\nb.wav' has no valid path"),
    "samples": ({}, {"samples": "1"}, "the utterance '/audio/a.wav' has no valid path, samples and split"),
    "text": ({}, {"text": "A\nB"}, r"has the text 'A\nB', which is not in the units"),
    "letters": ({}, {"text": "\x1b[2J"}, r"has the text '\x1b[2J', which is not in the units"),
    "type": ({}, {"path": 5}, "a value is missing or invalid (TypeError"),
    "units": ({"units": {}}, {}, "units: the field 'sentencepiece' is missing"),
    "verb": ({"verb": ["\x1b"]}, {}, r"its job is ['\x1b']; it must be one of prepare, transcribe, evaluate"),
    "no results": ({"verb": "evaluate"}, {}, "a value is missing or invalid (KeyError: 'reference')"),
    "no text": ({"verb": "transcribe"}, {"text": 5}, "a value is missing or invalid (TypeError"),
}


@pytest.mark.parametrize("name", MERGED)
def test_a_hostile_merge_writes_nothing(name: str, tmp_path: Path, run: Run) -> None:
    job, changes, message = MERGED[name]
    folder = tmp_path / "shards"
    header = HEADER | {"job": JOB | {"out": str(tmp_path)} | job}
    journal(folder / "shard-000001-of-000001.jsonl", header, json.dumps(UTTERANCE | changes))
    status, out, err = run("merge", folder, "--json", tmp_path / "merged.json")
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert f"{folder}: " in err or "units: " in err
    assert message in err
    assert "\x1b" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_escapes_in_merged_transcripts_are_harmless(tmp_path: Path, run: Run) -> None:
    journal(
        tmp_path / "shard-000001-of-000001.jsonl",
        HEADER | {"job": {"verb": "transcribe"}},
        json.dumps({"file": "a.wav", "text": "\x1b[2JA"}),
    )
    assert run("merge", tmp_path) == (0, "\\x1b[2JA\n", "")
