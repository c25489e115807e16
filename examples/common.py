"""Shared code of the examples: train with fairseq, count errors in parallel, skip finished steps, write results."""

import argparse
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
from w2v_compress.evaluation.report import Table, markdown_table, markdown_tables, to_json
from w2v_compress.evaluation.wer import ErrorCounts, Interval
from w2v_compress.files import replacing, write_json, write_text
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.runtime.recognizer import Recognizer

console = Console()
Key = TypeVar("Key")
Unit = Literal["words", "characters"]


def print_heading(text: str) -> None:
    """Print `text` in bold."""
    console.print(f"[bold]{text}[/bold]")


def update_bars() -> Progress:
    """Create progress bars for trainings: description, finished updates, elapsed time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} updates"))
    return Progress(*columns, TimeElapsedColumn(), console=console)


def file_name(name: str) -> str:
    """Turn a model name into a file name: `Student, CTC alone` -> `student-ctc-alone`."""
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
    """Train with fairseq-hydra-train in `folder`, continuing an interrupted training; return the last checkpoint.

    Args:
        config: The yaml file of the configuration.
        overrides: Overrides of the configuration.
        folder: The folder for checkpoints; the output of fairseq is appended to its log.txt.
        updates: The number of updates.
        threads: The number of torch threads; by default torch's choice.
        progress: Called with the number of finished updates.

    Raises:
        InputError: The training failed.
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
        raise InputError(f"training failed; see {folder / 'log.txt'}, which ends with:\n{''.join(last_lines)}")
    return folder / "checkpoint_last.pt"


def percent(interval: dict[str, float] | Interval) -> str:
    """Format an interval, or its JSON dictionary, as `12.34% [11.20, 13.50]`."""
    return (interval if isinstance(interval, Interval) else Interval(**interval)).percent()


def run_in_parallel(train_chain: Callable[..., None], chains: Iterable[tuple[Any, ...]]) -> None:
    """Call `train_chain(*chain, progress)` for each chain in parallel, one per core.

    Models this small gain little from a second thread. After a failure, chains that have not started are cancelled, and
    the `InputError` is raised.
    """
    with update_bars() as progress, ThreadPoolExecutor(max_workers=available_cores()) as pool:
        running = [pool.submit(train_chain, *chain, progress) for chain in chains]
        try:
            for chain in running:
                chain.result()
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise


def run_in_folder(description: str | None, run: Callable[[Path], None], default: Path | None = None) -> None:
    """Be the command line of a script that works in one folder: `--out`, or an argument if there is no default.

    Prints an error that a user can correct in one line, with the name of the script, and exits with status 1.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if default is None:
        parser.add_argument("out", type=Path, metavar="FOLDER", help="output folder of the experiment to go on with")
    else:
        parser.add_argument("--out", type=Path, default=default, help="output folder (default: %(default)s)")
    out = parser.parse_args().out.resolve()
    with one_line_errors():
        run(out)


@contextmanager
def one_line_errors(*others: type[Exception], name: str = "") -> Iterator[None]:
    """Turn an error that a user can correct, or one of `others`, into a line with the script's name, and status 1.

    `name` replaces the name of the script's file in that line.
    """
    try:
        yield
    except (OSError, InputError, *others) as error:
        sys.exit(f"{name or Path(sys.argv[0]).stem}: {error}")


def require_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings to `out`/settings.json, so that the files of a run with other settings are not reused.

    Raises:
        InputError: `out` contains a run with other settings.
    """
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    path = out / "settings.json"
    if path.exists() and (earlier := json.loads(path.read_text(encoding="utf-8"))) != settings:
        changed = ", ".join(name for name in settings if settings[name] != earlier.get(name))
        raise InputError(f"{out}: contains a run with different settings: {changed}; choose another --out")
    write_json(path, settings)


@contextmanager
def timed(out: Path, step: str) -> Iterator[None]:
    """Add the duration of a step to that of earlier calls in `out`/seconds.json, also if the step is interrupted."""
    path, start = out / "seconds.json", time.monotonic()
    try:
        yield
    finally:
        seconds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        seconds[step] = round(seconds.get(step, 0) + time.monotonic() - start, 1)
        write_json(path, seconds)


def split_digits(recordings: Sequence[Recording]) -> list[list[str]]:
    """Return rows (path, text, split, speaker) of the digits in `train`, `dev`, and `valid`, for choosing recipes.

    `dev` is that of the corpus. Recordings 45 to 49 of each digit and speaker of its `train` become `valid`, which is
    not trained on. `test`, if present, is not used.
    """
    rows = []
    for recording in recordings:
        path = recording.parts[0].resolve()
        held_out = recording.split == "train" and re.search(r"_4[5-9]$", path.stem)
        if recording.split in ("train", "dev"):
            rows.append([str(path), recording.text, "valid" if held_out else recording.split, recording.speaker])
    return rows


def write_corpus(folder: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write rows (path, text, split, speaker) as a corpus for `prepare`, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / "utterances.csv") as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file).writerows([["path", "text", "split", "speaker"], *rows])
    return folder


def load_in_file_precision(model: Path) -> Recognizer:
    """Load the recognizer in `model` with the precision of its weights.

    The default precision depends on the machine, and so would the error rates.
    """
    quantized = read_header(model).quantization is not None
    return Recognizer.load(model, precision="int8" if quantized else "fp32")


def count_errors(model: Path, data: Path, subset: str, point: str | None = None, unit: Unit = "words") -> ErrorCounts:
    """Count the errors of `model` in each utterance of `subset`, at a compression point if one is given.

    The counts are cached in a file beside the model.
    """
    at = f".{point.replace(',', '_')}" if point else ""
    cache = model.with_name(f"{model.stem}.{subset}{at}{'' if unit == 'words' else '.characters'}.json")
    if not cache.exists():
        torch.set_num_threads(1)
        with warnings.catch_warnings():  # baselines also run at points that they were not trained for
            warnings.simplefilter("ignore", UserWarning)
            report = evaluate(load_in_file_precision(model), read_manifest(data, subset), point=point)
        counts = report.word_counts if unit == "words" else report.character_counts
        write_json(cache, {"errors": counts.errors.tolist(), unit: counts.lengths.tolist()})
    cached = json.loads(cache.read_text(encoding="utf-8"))
    return ErrorCounts(np.array(cached["errors"]), np.array(cached[unit]))


def count_errors_in_parallel(
    files: Mapping[Key, Sequence[tuple[Path, str | None]]],
    data: Path,
    subset: str,
    unit: Unit = "words",
) -> dict[Key, list[ErrorCounts]]:
    """Call `count_errors` for the (model, point) pairs of each key in parallel, one per core."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=available_cores(), mp_context=context) as pool:
        counts = {
            key: [pool.submit(count_errors, model, data, subset, point, unit) for model, point in pairs]
            for key, pairs in files.items()
        }
        return {key: [count.result() for count in pending] for key, pending in counts.items()}


def finished_trials(folder: Path, names: Iterable[str]) -> list[dict[str, Any]]:
    """Read the rows that finished trials wrote to `folder`/NAME/row.json, in the order of `names`."""
    paths = [folder / file_name(name) / "row.json" for name in names]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def trial_table(rows: Sequence[Mapping[str, Any]], rates: Callable[[Mapping[str, Any]], Mapping[str, float]]) -> str:
    """Format trials as a table: name, updates, minutes, and the error rates that `rates` returns by column."""
    lines = [
        [
            row["trial"],
            str(row["updates"]),
            f"{row['minutes']:.1f}",
            *(f"{100 * rate:.1f}%" for rate in rates(row).values()),
        ]
        for row in rows
    ]
    return markdown_table(["trial", "updates", "minutes", *rates(rows[0])], lines)


def publish_tables(stem: Path, results: Mapping[str, Any], tables: Sequence[Table]) -> None:
    """Write `stem`.json, which also contains the tables, and `stem`.md, and print the tables."""
    write_json(stem.with_suffix(".json"), {**results, "tables": to_json(tables)})
    write_text(stem.with_suffix(".md"), markdown_tables(tables))
    print(markdown_tables(tables))


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
