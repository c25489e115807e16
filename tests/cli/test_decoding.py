"""Decoders, word times and CTM in `transcribe` and `evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from w2v_compress.runtime.decoding import Word
from w2v_compress.runtime.recognizer import Recognizer, Transcript

Run = Callable[..., tuple[int, str, str]]
ARPA = """\\data\\
ngram 1=6
ngram 2=1

\\1-grams:
-1.5	<unk>
-99	<s>	-0.4
-1.1	</s>
-0.8	A	-0.3
-0.9	BE	-0.25
-1.0	NAÏVE	-0.2

\\2-grams:
-0.3	A BE

\\end\\
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "bigram.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def words_of(model: Path, audio: Path) -> tuple[Word, ...]:
    (result,) = Recognizer.load(model).recognize([audio])
    assert isinstance(result, Transcript)
    return result.words


def test_timestamps_ctm_and_json(run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path) -> None:
    paths = [wav("a.wav", 1.0), wav("b.wav", 2.0, seed=1)]
    words = {path: words_of(tiny_path, path) for path in paths}
    assert all(words.values())
    ctm, report = tmp_path / "out.ctm", tmp_path / "report.json"
    status, out, _ = run("transcribe", tiny_path, *paths, "--timestamps", "--ctm", ctm, "--json", report)
    assert status == 0
    assert out == "".join(
        "".join([f"{path}\n", *(f"{word.start:.2f} {word.end:.2f} {word.text}\n" for word in words[path]), "\n"])
        for path in paths
    )
    rows = [line.split() for line in ctm.read_text().splitlines()]
    assert [(name, channel, text) for name, channel, _, _, text in rows] == [
        (path.stem, "1", word.text) for path in paths for word in words[path]
    ]
    for (_, _, start, duration, _), word in zip(rows, [word for path in paths for word in words[path]], strict=True):
        assert (float(start), float(start) + float(duration)) == pytest.approx((word.start, word.end))
    values = json.loads(report.read_text())
    assert values["decoder"] == {"search": "greedy"}
    assert [[Word(**word) for word in entry["words"]] for entry in values["transcripts"]] == [
        list(words[path]) for path in paths
    ]


def test_recordings_without_distinct_ctm_names_are_rejected(
    run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    first, second, spaced = wav("a.wav", 1.0), wav("other/a.wav", 1.0), wav("a b.wav", 1.0)
    ctm = tmp_path / "out.ctm"
    status, out, err = run("transcribe", tiny_path, first, second, "--ctm", ctm)
    assert (status, out) == (1, "")
    assert err == f"w2v-compress: --ctm: {first} and {second} would have the same name a\n"
    status, out, err = run("transcribe", tiny_path, spaced, "--ctm", ctm)
    assert (status, out) == (1, "")
    assert "must not contain spaces" in err
    assert not ctm.exists()


def test_beam_search_with_a_language_model(
    run: Run, tiny_path: Path, wav: Callable[..., Path], data: Path, arpa: Path, tmp_path: Path
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    report, audio = tmp_path / "report.json", wav("a.wav", 1.0)
    options = ("--lm", arpa, "--beam", 20, "--lm-weight", 0.5, "--word-score", 1, "--json", report)
    status, out, err = run("transcribe", tiny_path, audio, *options)
    assert status == 0
    assert set(out.split()) <= {"A", "BE"}
    left_out = f"w2v-compress: {arpa}: 1 words are left out, for which the model has no units: NAÏVE"
    assert err.splitlines().count(left_out) == 1
    decoder = {"search": "beam", "lm": str(arpa), "lexicon": None, "beam": 20}
    decoder |= {"beam_threshold": 25.0, "lm_weight": 0.5, "word_score": 1.0}
    assert json.loads(report.read_text())["decoder"] == decoder
    status, out, _ = run("evaluate", tiny_path, data, "--subset", "dev", *options)
    assert status == 0
    assert "beam search, 20, bigram.arpa" in out
    values = json.loads(report.read_text())
    assert values["decoder"] == decoder
    assert values["wer"]["value"] > 1 / values["words"]  # the WER of greedy decoding


def test_a_lexicon_alone_and_a_beam_alone(run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    lexicon, audio = tmp_path / "lexicon.txt", wav("a.wav", 1.0)
    lexicon.write_text("BE\nA\n")
    status, out, _ = run("transcribe", tiny_path, audio, "--lexicon", lexicon, "--word-score", -1)
    assert status == 0
    assert set(out.split()) <= {"A", "BE"}
    status, out, _ = run("transcribe", tiny_path, audio, "--beam", 50, "--beam-threshold", 30)
    assert (status, len(out.splitlines())) == (0, 1)
    assert len(out) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lm-weight", "1"), "requires --lm"),
        (("--word-score", "1", "--beam", "5"), "requires --lm or --lexicon"),
        (("--beam-threshold", "1"), "requires --lm, --lexicon or --beam"),
        (("--beam", "0"), "--beam"),
    ],
)
def test_options_without_the_option_they_require_are_wrong_usage(
    run: Run, tiny_path: Path, wav: Callable[..., Path], options: tuple[str, ...], message: str
) -> None:
    status, out, err = run("transcribe", tiny_path, wav("a.wav", 0.5), *options)
    assert (status, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())


def test_invalid_language_models_print_one_line(
    run: Run, tiny_path: Path, wav: Callable[..., Path], arpa: Path, data: Path
) -> None:
    pytest.importorskip("flashlight.lib.text.decoder")
    audio = wav("a.wav", 0.5)
    for content, message in (
        (b"", "the file is empty"),
        (b"mmap lm http://kheafield.com/code format version 5\n\0", "give a list with --lexicon"),
        (ARPA.replace("Ï", "I").encode()[:-8], "KenLM cannot read it"),
        (audio.read_bytes(), "not"),
    ):
        arpa.write_bytes(content)
        for command in (("transcribe", tiny_path, audio), ("evaluate", tiny_path, data, "--subset", "dev")):
            status, out, err = run(*command, "--lm", arpa)
            assert (status, out, err.count("\n")) == (1, "", 1)
            assert err.startswith(f"w2v-compress: {arpa}: ")
            assert message in err
