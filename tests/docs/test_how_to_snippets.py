"""Run the Python snippets of the how-to pages as printed, on the tiny model."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

DOCS = Path(__file__).resolve().parents[2] / "docs"
ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.5	<unk>
-99	<s>	-0.4
-1.1	</s>
-0.8	A	-0.3
-0.9	AB	-0.2

\\2-grams:
-0.3	<s> A
-0.4	A AB

\\end\\
"""

Snippet = Callable[..., str]


@pytest.fixture
def snippet(tmp_path: Path, tiny_path: Path, wav: Callable[..., Path]) -> Snippet:
    """snippet(page, containing, then) runs the Python block of `page` that contains a text, followed by `then`.

    The block runs in a folder with the tiny model and one second of audio, and the result is its standard output.
    """
    for name in ("model.safetensors", "elastic.safetensors"):
        shutil.copy(tiny_path, tmp_path / name)
    wav("speech.wav", 1.0)

    def run(page: str, containing: str, then: str = "") -> str:
        blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
        (program,) = [block for block in blocks if containing in block]
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\n{then}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_decoding_snippet(snippet: Snippet, tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text")
    with gzip.open(tmp_path / "3-gram.arpa.gz", "wt") as file:
        file.write(ARPA)
    words = snippet("decoding.md", "BeamSearchDecoder", "print(model.transcribe('speech.wav'))").split()
    assert set(words) <= {"A", "AB"}


def test_the_long_audio_snippet(snippet: Snippet, wav: Callable[..., Path], tmp_path: Path) -> None:
    wav("hello.wav", 1.0)
    for name in ("meeting.flac", "lecture.mp3"):
        samples, rate = soundfile.read(wav("source.wav", 2.0))
        soundfile.write(tmp_path / name, samples, rate)
    assert "Error" not in snippet("long_audio.md", "lecture.mp3", "print(repr(result))")


def test_the_model_file_snippet(snippet: Snippet) -> None:
    assert json.loads(snippet("model_file.md", "safe_open"))["format_version"] == 2


def test_the_elastic_snippet(snippet: Snippet) -> None:
    assert snippet("stochastic.md", "elastic.safetensors", "print(type(model.transcribe('speech.wav')).__name__)")


def test_the_runtime_snippet(snippet: Snippet) -> None:
    assert snippet("runtime.md", "threads=2").strip()
