"""What the examples share: runs of fairseq with their progress, steps that are not repeated, and what is shown."""

import csv
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from w2v_compress.compat.plugin import user_dir
from w2v_compress.cores import available_cores
from w2v_compress.data.corpora import Recording
from w2v_compress.data.manifest import read_manifest
from w2v_compress.errors import InputError
from w2v_compress.evaluation.evaluate import evaluate
from w2v_compress.evaluation.wer import ErrorCounts, Interval
from w2v_compress.files import replacing, write_json, write_text
from w2v_compress.model_file.storage import read_header
from w2v_compress.runtime.recognizer import Recognizer

console = Console()
Key = TypeVar("Key")


def say(text: str) -> None:
    console.print(f"[bold]{text}[/bold]")


def update_bars() -> Progress:
    """Bars of trainings: what is trained, updates done, time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} updates"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def file_name(name: str) -> str:
    """`Student, CTC alone` -> `student-ctc-alone`"""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def train(
    config: Path,
    overrides: list[str],
    folder: Path,
    updates: int,
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda updates: None,
) -> Path:
    """Run fairseq-hydra-train with the yaml `config` in `folder`; it goes on where it was interrupted.

    `threads` is torch's number of threads, by default torch's own choice; `progress` gets the updates done. Returns
    the last checkpoint; what fairseq says is added to `folder`/log.txt. Raises `InputError` when the training fails.
    """
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), "--config-dir", str(config.parent)]
    command += ["--config-name", config.stem, f"hydra.run.dir={folder}", f"checkpoint.save_dir={folder}"]
    command += [f"common.user_dir={user_dir()}", f"optimization.max_update={updates}", *overrides]
    environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    folder.mkdir(parents=True, exist_ok=True)
    last_lines: deque[str] = deque(maxlen=20)
    with (
        open(folder / "log.txt", "a", encoding="utf-8") as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            last_lines.append(line)
            if done := re.search(r'"num_updates": "(\d+)"', line):
                progress(int(done[1]))
    if process.returncode:
        raise InputError(f"training failed; see {folder / 'log.txt'}. Its end:\n{''.join(last_lines)}")
    return folder / "checkpoint_last.pt"


def percent(interval: dict[str, float] | Interval) -> str:
    """An interval, or the dictionary that JSON keeps of it, as `12.34% [11.20, 13.50]`."""
    return (interval if isinstance(interval, Interval) else Interval(**interval)).percent()


def on_every_core(train_chain: Callable[..., None], chains: Iterable[tuple[Any, ...]]) -> None:
    """`train_chain(*chain, progress)` of every chain, one a core: so small a model gains little from a second thread.

    When one fails, those that did not begin are left out, and its `InputError` is raised.
    """
    with update_bars() as progress, ThreadPoolExecutor(max_workers=available_cores()) as pool:
        running = [pool.submit(train_chain, *chain, progress) for chain in chains]
        try:
            for chain in running:
                chain.result()
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise


def keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raise `InputError` when the output folder holds a run with other settings: its files would be taken for ours."""
    settings = json.loads(json.dumps(settings))  # as they are read back
    kept = out / "settings.json"
    if kept.exists() and (earlier := json.loads(kept.read_text(encoding="utf-8"))) != settings:
        changed = ", ".join(name for name in settings if settings[name] != earlier.get(name))
        raise InputError(f"{out}: holds a run with another {changed}; choose another --out")
    write_json(kept, settings)


@contextmanager
def timed(out: Path, step: str) -> Iterator[None]:
    """Adds the seconds of a step, also an interrupted one, to those of earlier calls in `out`/seconds.json."""
    kept, start = out / "seconds.json", time.monotonic()
    try:
        yield
    finally:
        seconds = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        seconds[step] = round(seconds.get(step, 0) + time.monotonic() - start, 1)
        write_json(kept, seconds)


def held_out_digits(recordings: Sequence[Recording]) -> list[list[str]]:
    """Rows (path, text, split, speaker) of the digits: `train`, `dev`, and `valid` to choose recipes on.

    `dev` is the corpus's. Recordings 45 to 49 of each digit and speaker of its `train` become `valid`, on which no
    model is trained. Its `test`, if it is there, is left out.
    """
    rows = []
    for recording in recordings:
        path = recording.parts[0].resolve()
        held_out = recording.split == "train" and re.search(r"_4[5-9]$", path.stem)
        if recording.split in ("train", "dev"):
            rows.append([str(path), recording.text, "valid" if held_out else recording.split, recording.speaker])
    return rows


def write_listing(folder: Path, rows: Sequence[Sequence[str]]) -> Path:
    """A corpus for `prepare` of the rows (path, text, split, speaker); returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / "utterances.csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([["path", "text", "split", "speaker"], *rows])
    return folder


def load_exact(model: Path) -> Recognizer:
    """The recognizer in `model` in the precision of its weights.

    Left to itself it would take what the machine is fast in, and figures of two machines would differ.
    """
    quantized = read_header(model).quantization is not None
    return Recognizer.load(model, precision="int8" if quantized else "fp32")


def count_errors(
    model: Path, data: Path, subset: str, point: str | None = None, of: Literal["words", "characters"] = "words"
) -> ErrorCounts:
    """Errors of `model` by utterance of `subset`; kept beside the model, since the same file gives the same.

    `point`: where to run it, for a model that is trained for several.
    """
    at = f".{point.replace(',', '_')}" if point else ""
    kept = model.with_name(f"{model.stem}.{subset}{at}{'' if of == 'words' else '.characters'}.json")
    if not kept.exists():
        torch.set_num_threads(1)
        with warnings.catch_warnings():  # of points that the model was not trained for: baselines are to run there
            warnings.simplefilter("ignore", UserWarning)
            report = evaluate(load_exact(model), read_manifest(data, subset), point=point)
        counts = report.word_counts if of == "words" else report.character_counts
        write_json(kept, {"errors": counts.errors.tolist(), of: counts.lengths.tolist()})
    read = json.loads(kept.read_text(encoding="utf-8"))
    return ErrorCounts(np.array(read["errors"]), np.array(read[of]))


def count_on_every_core(
    files: Mapping[Key, Sequence[tuple[Path, str | None]]],
    data: Path,
    subset: str,
    of: Literal["words", "characters"] = "words",
) -> dict[Key, list[ErrorCounts]]:
    """`count_errors` of the (model, point) under each key, one a core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=available_cores(), mp_context=context) as pool:
        counts = {
            key: [pool.submit(count_errors, model, data, subset, point, of) for model, point in of_key]
            for key, of_key in files.items()
        }
        return {key: [count.result() for count in of_key] for key, of_key in counts.items()}


def publish(
    out: Path,
    results: Mapping[str, Any],
    markdown: Callable[[Mapping[str, Any]], str],
    plot: Callable[[Mapping[str, Any], Path], None],
) -> None:
    """Write `out`/results.json, .md and .png, and print the tables."""
    write_json(out / "results.json", results)
    write_text(out / "results.md", markdown(results))
    plot(results, out / "results.png")
    print(markdown(results))
    print(f"results: {out / 'results.json'}, {out / 'results.png'}; models: {out}/*.safetensors")
