"""examples/quickstart: properties of the corpus, the teacher and the committed results."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from w2v_compress.compat import load_checkpoint
from w2v_compress.data.audio import read_audio
from w2v_compress.evaluation.wer import character_errors
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint
from w2v_compress.runtime.recognizer import Recognizer

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
CORPUS = QUICKSTART / "corpus"
TEACHER = QUICKSTART / "teacher" / "teacher.pt"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with open(CORPUS / "utterances.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_splits_are_disjoint_and_their_words_are_in_training(rows):
    texts = {split: {row["text"] for row in rows if row["split"] == split} for split in ("train", "dev", "test")}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    in_training = Counter(word for row in rows if row["split"] == "train" for word in row["text"].split())
    for row in rows:
        if row["split"] != "train":
            words = row["text"].split()
            assert len(words) >= 2
            assert all(in_training[word] >= 2 for word in words), row["text"]
    assert Counter(row["split"] for row in rows) == {"train": 431, "dev": 40, "test": 80}
    assert sum(len(row["text"].split()) for row in rows if row["split"] == "test") == 550


def test_corpus_is_small_and_complete(rows):
    audio = sorted(path.name for path in (CORPUS / "audio").iterdir())
    assert audio == sorted(Path(row["path"]).name for row in rows)
    assert sum(path.stat().st_size for path in (CORPUS / "audio").iterdir()) <= 6e6
    assert set("".join(row["text"] for row in rows)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")


def test_teacher_is_a_small_stock_checkpoint():
    assert TEACHER.stat().st_size <= 12e6
    checkpoint = load_checkpoint(TEACHER)
    assert checkpoint["cfg"]["model"]["_name"] == "wav2vec_ctc"
    assert checkpoint["cfg"]["task"]["_name"] == "audio_finetuning"
    assert "last_optimizer_state" not in checkpoint
    assert {tensor.dtype for tensor in checkpoint["model"].values()} == {torch.float16}


def test_teacher_recognizes_prompts_that_it_was_not_trained_on(tmp_path, rows):
    """A loose limit that only shows that the file is a working recognizer; `make demo` measures its error rates."""
    export_checkpoint(TEACHER, tmp_path / "teacher.safetensors")
    dev = [row for row in rows if row["split"] == "dev"][:12]
    recognizer = Recognizer.load(tmp_path / "teacher.safetensors")
    assert [str(point) for point in recognizer.header.space.all_points()] == ["1,1,1"]
    texts = recognizer.transcribe([CORPUS / row["path"] for row in dev])
    assert character_errors([row["text"] for row in dev], texts).rate < 0.4


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Press 500 now, or [beep] 42!", "PRESS FIVE HUNDRED NOW OR FORTY TWO"),
        ("<beep ascending>", ""),
        ("(10 seconds of silence)", ""),
        ("You 'may' use the caller's 3D-phone...", "YOU MAY USE THE CALLER'S THREE D PHONE"),
        ("fourtieth", "FORTIETH"),
        ("1234 and 917", "ONE TWO THREE FOUR AND NINE HUNDRED SEVENTEEN"),
    ],
)
def test_texts_are_normalized_to_spoken_words(monkeypatch, written, spoken):
    monkeypatch.setattr(sys, "path", [str(QUICKSTART), *sys.path])
    from build_corpus import normalize

    assert normalize(written) == spoken


def test_training_audio_uses_only_training_prompts(monkeypatch, rows):
    monkeypatch.setattr(sys, "path", [str(QUICKSTART / "train_teacher"), *sys.path])
    import numpy as np
    from make_mix import phrases, read_corpus, synthetic_text, trim

    clips = read_corpus(CORPUS, "dev")[:6]
    assert [clip.text for clip in clips] == [row["text"] for row in rows if row["split"] == "dev"][:6]
    made = phrases(clips, 0.005, 8, 3, np.random.default_rng(1))
    assert 0.005 * 3600 <= sum(len(clip.samples) for clip in made) / 16000 < 0.02 * 3600
    own = {word for clip in clips for word in clip.text.split()}
    assert all(set(clip.text.split()) <= own for clip in made)

    import random

    texts = [clip.text for clip in clips]
    choice = random.Random(1)
    drawn = [synthetic_text(texts, set(), 12, choice) for _ in range(200)]
    assert all(set(text.split()) <= own for text in drawn)
    held_out = set(drawn[:100])
    assert not held_out & {synthetic_text(texts, held_out, 12, choice) for _ in range(200)}
    silence = np.zeros(8000, np.float32)
    speech = read_audio(CORPUS / rows[0]["path"])
    assert len(trim(np.concatenate([silence, speech, silence]))) <= len(speech) + 2 * 1000


def test_readme_shows_the_committed_results_of_a_full_run():
    results = QUICKSTART / "results"
    readme = (QUICKSTART.parents[1] / "README.md").read_text(encoding="utf-8")
    assert (results / "results.md").read_text(encoding="utf-8") in readme
    recorded = json.loads((results / "results.json").read_text(encoding="utf-8"))
    assert recorded["command"] == "make demo"
    assert [row["model"] for row in recorded["models"]] == [
        line.split("|")[1].strip() for line in (results / "results.md").read_text(encoding="utf-8").splitlines()[2:]
    ]
