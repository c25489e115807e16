"""Every sh and python block of README.md and docs/ works.

An HTML comment above a block says who tests it; a block without one is run here, page by page, in a folder with the
files that the pages name.

    <!-- needs: GPU, hours -->                       not run: needs what a test machine lacks
    <!-- tested by: tests/FILE.py::test_name -->     run by another test
    <!-- file: PATH -->                              saved as PATH, for a block below to run
    <!-- tools: curl -->                             run only where these programs are installed

Trainings end after two updates: `fairseq-hydra-train` is a wrapper here that adds `optimization.max_update=2`.
"""

import contextlib
import dataclasses
import gzip
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

from w2v_compress.cli.app import app
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.nn.compression import CompressionSpace

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]
SHELL = ("sh", "bash", "shell", "console")
LANGUAGES = (*SHELL, "python", "py")
MARKS = {"needs", "tested by", "file", "tools"}
NEEDS = {"GPU", "LibriSpeech", "corpus", "hours"}
TUTORIAL = ["docs/tutorial/compress.md", "docs/tutorial/elastic.md", "docs/tutorial/deploy.md"]
GUIDES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
TESTED_ELSEWHERE = {
    "benchmark": "tests/benchmark/test_run.py",
    "export": "tests/interop",
    "import": "tests/interop/test_transformers_import.py",
}
"""Slow commands, which are only parsed here, and what runs them."""
LANGUAGE_MODEL = """\
\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-1\t<unk>
-99\t<s>\t-0.5
-1\t</s>
-1\tA\t-0.5

\\2-grams:
-0.5\t<s> A

\\end\\
"""
SMALL_CORPUS = {"train": 48, "dev": 12, "test": 12}
"""Prompts of each split in the corpus that the commands read."""
PORT = "8123"
"""The port in the tutorial; the test takes a free one."""
SHORT_TRAINING = """\
import sys
from fairseq_cli.hydra_train import cli_main
sys.argv += ["optimization.max_update=2"]
cli_main()
"""


@pytest.fixture(scope="session")
def code_blocks(pages: list[str], blocks_of: Callable[[str], list[Any]]) -> list[Any]:
    """The sh and python blocks of all pages."""
    return [block for page in pages for block in blocks_of(page) if block.language in LANGUAGES]


def run_here(block: Any) -> bool:
    return block.language in LANGUAGES and not {"needs", "tested by"} & block.marks.keys()


def test_comments_above_blocks_are_valid(code_blocks: list[Any]) -> None:
    assert len(code_blocks) > 20
    for block in code_blocks:
        assert block.marks.keys() <= MARKS, block.place
        assert set(block.marks.get("needs", [])) <= NEEDS, block.place
        for test in block.marks.get("tested by", []):
            file, _, name = test.partition("::")
            assert (ROOT / file).is_file(), f"{block.place}: {file} does not exist"
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8") or not name, f"{block.place}: {test}"


def test_python_blocks_compile(code_blocks: list[Any]) -> None:
    for block in code_blocks:
        if block.language not in SHELL:
            compile(block.text, block.place, "exec")


def commands(text: str) -> list[list[str]]:
    """The words of each `w2v-compress` command in a shell script, up to the next shell operator."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True  # at white space and shell operators only
        words = list(lexer)
        for start, word in enumerate(words):
            if word.endswith("w2v-compress") and (start == 0 or words[start - 1] in (";", "&&", "|", "(")):
                arguments = itertools.takewhile(lambda word: not re.fullmatch("[();<>|&]+", word), words[start + 1 :])
                found.append(list(arguments))
    return found


def test_command_lines_parse(code_blocks: list[Any]) -> None:
    """Each verb and option exists, and each value has the right type; nothing is run."""
    group = typer.main.get_command(app)
    parsed = 0
    for block in code_blocks:
        for words in commands(block.text) if block.language in SHELL else []:
            if words[:1] in (["--help"], ["--version"]):
                continue
            command: Any = group
            while hasattr(command, "commands"):
                assert words, f"{block.place}: a verb is missing"
                assert words[0] in command.commands, f"{block.place}: w2v-compress has no verb {words[0]!r}"
                command = command.commands[words.pop(0)]
            try:
                command.make_context(command.name, words)
            except Exception as error:
                pytest.fail(f"{block.place}: {command.name} {shlex.join(words)}: {error!r}")
            parsed += 1
    assert parsed > 20


@pytest.fixture
def folder(tmp_path: Path, tiny_path: Path) -> Path:
    """A folder with the files that README.md and the tutorial name; its `fairseq-hydra-train` ends trainings early."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    link_content(ROOT / "examples", tmp_path / "examples", without="quickstart")
    quickstart = tmp_path / "examples" / "quickstart"
    link_content(ROOT / "examples" / "quickstart", quickstart, without="corpus")
    write_small_corpus(quickstart / "corpus")
    write_small_corpus(tmp_path / "my-corpus")
    (tmp_path / "teacher.pt").symlink_to(ROOT / "examples" / "quickstart" / "teacher" / "teacher.pt")
    shutil.copy(tiny_path, tmp_path / "student.safetensors")
    write_noise(tmp_path, "speech.wav", "a.flac", "b.opus")
    program = tmp_path / "bin" / "fairseq-hydra-train"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{SHORT_TRAINING}", encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


def link_content(source: Path, folder: Path, without: str) -> None:
    """Make a folder with links to what is in `source`, but for one name."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name != without:
            (folder / path.name).symlink_to(path)


def write_small_corpus(folder: Path) -> None:
    """Write the quickstart corpus with a few of its prompts, so that commands that read all of it take seconds."""
    corpus = ROOT / "examples" / "quickstart" / "corpus"
    link_content(corpus, folder, without="utterances.csv")
    header, *lines = (corpus / "utterances.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for split, count in SMALL_CORPUS.items():
        kept += [line for line in lines if line.rstrip().endswith(f",{split}")][:count]
    (folder / "utterances.csv").write_text("".join([header, *kept]), encoding="utf-8")


def write_noise(folder: Path, *names: str, seconds: float = 1.0) -> None:
    """Write noise at 16 kHz to each file, in the format of its name."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=round(seconds * 16_000))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        soundfile.write(path, noise, 16_000, **opus)


def only_commands(block: Any) -> list[list[str]] | None:
    """The `w2v-compress` commands of a block that has nothing else but `pip install`; None for another block."""
    lines = [line for line in block.text.replace("\\\n", " ").splitlines() if not line.startswith("pip install ")]
    found = commands("\n".join(lines))
    simple = block.language in SHELL and len(found) == len(lines) and "$" not in block.text
    return found if simple else None


def run_commands(block: Any, found: list[list[str]], run: Run) -> None:
    """Run commands in this process, since a new one takes seconds to import torch."""
    for words in found:
        status, _, error = run(*words)
        assert status == 0, f"{block.place}: w2v-compress {shlex.join(words)}: {error}"


def run_block(block: Any, folder: Path, port: str, run: Run) -> None:
    """Run a block in `folder`; fail with its output unless it succeeds. Processes that it leaves behind are ended."""
    found = only_commands(block)
    if found is not None:
        run_commands(block, found, run)
        return
    if "file" in block.marks:
        (folder / block.marks["file"][0]).write_text(block.text, encoding="utf-8")
        return
    if not all(map(shutil.which, block.marks.get("tools", []))):
        return
    text = re.sub(rf"\b{PORT}\b", port, block.text)
    command = ["bash", "-euo", "pipefail", "-c", text] if block.language in SHELL else [sys.executable, "-c", text]
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"}
    output = folder / "output.txt"
    with open(output, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout=300)
        finally:
            with contextlib.suppress(ProcessLookupError):  # usually nothing is left
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, f"{block.place}: exit status {status}\n{block.text}\n{output.read_text()[-4000:]}"


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.parametrize("pages", [["README.md"], TUTORIAL], ids=["README", "tutorial"])
def test_the_blocks_run_in_order(
    pages: list[str],
    blocks_of: Callable[[str], list[Any]],
    folder: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    port = free_port()
    for block in filter(run_here, (block for page in pages for block in blocks_of(page))):
        run_block(block, folder, port, run)


@pytest.fixture
def guide_folder(tmp_path: Path, data: Path, tiny_path: Path, tiny_model: Callable[..., ModelFile]) -> Path:
    """A folder with small files of the names that the guides use; `data` holds the subsets `dev` and `train`."""
    shutil.copy(ROOT / "benchmarks" / "results" / "benchmark_base.json", tmp_path / "base.json")
    for name in ("my-corpus", "my-test"):
        (tmp_path / name).symlink_to(ROOT / "examples" / "quickstart" / "corpus")
    shutil.copy(tiny_path, tmp_path / "model.safetensors")
    fixed = tiny_model()
    elastic = dataclasses.replace(fixed.header, space=CompressionSpace(squeeze=(1, 2, 4)))
    write_model(tmp_path / "elastic.safetensors", ModelFile(elastic, fixed.state))
    write_noise(tmp_path, "speech.wav", "a.wav", "b.wav", "hello.wav", "meeting.flac")
    (tmp_path / "data" / "librispeech").mkdir()
    for file in list((tmp_path / "data").glob("dev.*")):
        shutil.copy(file, file.with_name(f"train{file.suffix}"))
        shutil.copy(file, tmp_path / "data" / "librispeech" / f"dev-other{file.suffix}")
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "1"
    write_noise(chapter, "84-1-0000.flac")
    (chapter / "84-1.trans.txt").write_text("84-1-0000 A\n", encoding="utf-8")
    digits = [f"{digit}_jackson_{take}.wav" for digit in range(10) for take in range(12)]
    write_noise(tmp_path / "free-spoken-digit-dataset" / "recordings", *digits, seconds=0.3)
    with gzip.open(tmp_path / "3-gram.arpa.gz", "wt", encoding="utf-8") as file:
        file.write(LANGUAGE_MODEL)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in GUIDES if page not in TUTORIAL])
def test_the_commands_of_the_guides_run(
    page: str,
    blocks_of: Callable[[str], list[Any]],
    guide_folder: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(guide_folder)
    for block in filter(run_here, blocks_of(page)):
        found = only_commands(block)
        assert found is not None, f"{block.place}: no test runs this block"
        run_commands(block, [words for words in found if words[0] not in TESTED_ELSEWHERE], run)
