"""Damaged and hostile files: readers return a value or raise `InputError`."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from w2v_compress import compat
from w2v_compress.data.audio import read_audio, read_unconverted
from w2v_compress.data.corpora import CORPORA
from w2v_compress.data.manifest import read_manifest
from w2v_compress.data.manifest_check import check_manifest
from w2v_compress.data.units import Units
from w2v_compress.interop.fairseq_checkpoint import read_checkpoint, write_checkpoint
from w2v_compress.model_file.header import Header
from w2v_compress.model_file.storage import ModelFile, read_model, write_model
from w2v_compress.model_file.tensor_file import TensorFile, describe_model
from w2v_compress.runtime.decoding.lexicon import read_lexicon
from w2v_compress.shards import Shard, merge

Fuzz = Callable[[Callable[[Any], object], SearchStrategy[Any]], None]
Damaged = Callable[..., SearchStrategy[bytes]]
Edited = Callable[[str], SearchStrategy[str]]
Values = SearchStrategy[Any]


def test_model_files(fuzz: Fuzz, tmp_path: Path, tiny_model: Callable[..., ModelFile], damaged: Damaged) -> None:
    path = tmp_path / "model.safetensors"
    write_model(path, tiny_model())
    content = path.read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")

    def check(example: bytes) -> None:
        path.write_bytes(example)
        describe_model(path)
        TensorFile.read(path)
        read_model(path)

    fuzz(check, st.one_of(damaged(content), damaged(content, 0, header_end)))


def test_headers(fuzz: Fuzz, tiny_model: Callable[..., ModelFile], edited: Edited, json_values: Values) -> None:
    fields = json.loads(tiny_model().header.to_json())

    def replaced(name: str, inner: str, value: Any) -> str:
        changed = json.loads(json.dumps(fields))
        if isinstance(changed[name], dict) and inner in changed[name]:
            changed[name][inner] = value
        else:
            changed[name] = value
        return json.dumps(changed)

    names = sorted({inner for value in fields.values() if isinstance(value, dict) for inner in value})
    one = st.builds(replaced, st.sampled_from(sorted(fields)), st.sampled_from(names), json_values)
    fuzz(lambda text: Header.from_json(text).check_points(), st.one_of(one, edited(json.dumps(fields))))


def test_checkpoints(fuzz: Fuzz, tmp_path: Path, tiny_model: Callable[..., ModelFile], damaged: Damaged) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, tiny_model())
    content = path.read_bytes()

    def check(example: bytes) -> None:
        path.write_bytes(example)
        read_checkpoint(path)

    fuzz(check, st.one_of(damaged(content), damaged(content, 0, 4000)))


def test_checkpoints_with_other_values(
    fuzz: Fuzz, tmp_path: Path, tiny_model: Callable[..., ModelFile], json_values: Values
) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, tiny_model())
    whole = compat.load_checkpoint(path)
    places = [("cfg",), ("model",), ("task_state",), ("cfg", "model"), ("cfg", "task"), ("cfg", "model", "w2v_args")]
    places += [("cfg", "model", "w2v_args", "model"), ("extra_state",), ("args",)]
    settings = sorted(whole["cfg"]["model"]["w2v_args"]["model"])
    places += [("cfg", "model", "w2v_args", "model", name) for name in settings]
    places += [("cfg", "task", name) for name in ("_name", "labels", "normalize", "data", "point", "squeeze")]
    places += [("model", name) for name in sorted(whole["model"])[:3]]
    values = st.one_of(json_values, st.builds(torch.zeros, st.integers(0, 5)), st.integers(2**40, 2**70))

    def check(example: tuple[tuple[str, ...], Any]) -> None:
        place, value = example
        changed = {**whole, "cfg": json.loads(json.dumps(whole["cfg"]))}
        target: Any = changed
        for name in place[:-1]:
            target = target[name]
        if place[0] == "model" and len(place) > 1:
            changed["model"] = target = dict(whole["model"])
        target[place[-1]] = value
        torch.save(changed, path)
        read_checkpoint(path)

    fuzz(check, st.tuples(st.sampled_from(places), values))


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")], ids=str)
def test_audio(fuzz: Fuzz, kind: tuple[str, str], damaged: Damaged) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(4000) / 9), 16_000, format=kind[0], subtype=kind[1])
    content = file.getvalue()

    def check(example: bytes) -> None:
        samples = read_audio(example)
        assert np.isfinite(samples).all()
        read_unconverted(io.BytesIO(example), name="audio")

    fuzz(check, st.one_of(damaged(content), damaged(content, 0, 64)))


def test_manifests(fuzz: Fuzz, tmp_path: Path, edited: Edited) -> None:
    manifest = "/audio\na.wav\t16000\nb/c.wav\t8000\n"
    labels = "A B |\nC |\n"

    def check(example: tuple[str, str, str]) -> None:
        for suffix, text in zip(("tsv", "ltr", "wrd"), example, strict=True):
            (tmp_path / f"train.{suffix}").write_bytes(text.encode("utf-8", "surrogatepass"))
        read_manifest(tmp_path, "train")
        check_manifest(tmp_path, "train", "ltr", "ABC|")

    fuzz(check, st.tuples(edited(manifest), edited(labels), edited("AB\nC\n")))


def test_dictionaries_and_lexicons(fuzz: Fuzz, tmp_path: Path, damaged: Damaged) -> None:
    path = tmp_path / "dict.ltr.txt"
    units = Units.letters()

    def check(example: bytes) -> None:
        path.write_bytes(example)
        Units.read_dictionary(path)

    def check_lexicon(example: bytes) -> None:
        path.write_bytes(example)
        read_lexicon(path, units)

    fuzz(check, damaged(b"| 1\nA 1\nB 1\n"))
    fuzz(check_lexicon, damaged(b"ONE O N E |\nTWO\n"))


def test_corpora(fuzz: Fuzz, tmp_path: Path, edited: Edited) -> None:
    path = tmp_path / "utterances.csv"

    def check(example: str) -> None:
        path.write_bytes(example.encode("utf-8", "surrogatepass"))
        CORPORA["csv"](path)

    fuzz(check, edited('path,text,split\na.wav,"ONE, TWO",train\n"b\nc.wav",THREE,dev\n'))


def test_journals(fuzz: Fuzz, tmp_path: Path, edited: Edited) -> None:
    path = tmp_path / Shard(1, 1).file_name
    header = json.dumps({"job": {"verb": "transcribe"}, "shard": "1/1", "total": 1})

    def check(example: str) -> None:
        path.write_bytes(example.encode("utf-8", "surrogatepass"))
        merge(tmp_path)

    fuzz(check, edited(f'{header}\n{{"file": "a.wav", "text": "A"}}\n'))
