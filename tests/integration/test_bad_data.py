"""Training goes on when audio goes bad, and names it; faults of manifests end it before it starts."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_compress.errors import InputError

Train = Callable[..., None]
GOOD = int(os.environ.get("GOOD_UTTERANCES", "24"))
"""`make soak` sets 1089, of which the faults are 1%."""
SAMPLES = 8000


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4000])


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _audio(samples: int = SAMPLES, rate: int = 16_000, channels: int = 1, value: float = 0.1) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        soundfile.write(path, np.full((samples, channels), value), rate, subtype="FLOAT")

    return write


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "missing\tno such file"),
    "text": (lambda path: path.write_text("no audio"), "unreadable\tis damaged, cut short, or not audio"),
    "truncated": (_cut, "unreadable\tis cut short"),
    "empty": (lambda path: path.write_bytes(b""), "empty\tthe file is empty"),
    "fifo": (_fifo, "unreadable\tis not a file"),
    "folder": (_folder, "unreadable\tis not a file"),
    "device": (_device, "unreadable\tis not a file"),
    "rate": (_audio(rate=8000), "wrong rate\tis at 8000 Hz; it must be at 16000 Hz"),
    "stereo": (_audio(channels=2), "several channels\thas 2 channels; it must have one"),
    "longer": (_audio(samples=3 * SAMPLES), "wrong length\thas 24000 samples, but 8000 in the manifest"),
    "nan": (_audio(value=float("nan")), "non-finite\thas samples that are not finite numbers"),
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A manifest folder of noise with a file for each of `FAULTS`, in the middle of good ones."""
    folder = tmp_path / "data"
    (folder / "audio").mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = [f"{index}.wav" for index in range(GOOD)]
    names[5:5] = [f"{fault}.wav" for fault in FAULTS]
    for name in names:
        soundfile.write(folder / "audio" / name, generator.normal(scale=0.1, size=SAMPLES), 16_000, subtype="FLOAT")
    for fault, (spoil, _) in FAULTS.items():
        spoil(folder / "audio" / f"{fault}.wav")
    (folder / "train.tsv").write_text(f"{folder / 'audio'}\n" + "".join(f"{name}\t{SAMPLES}\n" for name in names))
    (folder / "train.ltr").write_text("A B |\n" * len(names))
    (folder / "train.wrd").write_text("AB\n" * len(names))
    (folder / "dict.ltr.txt").write_text("| 1\nA 1\nB 1\nC 1\n")
    return folder


@pytest.fixture
def settings(pretraining: tuple[str, ...], corpus: Path, tmp_path: Path) -> list[str]:
    """Overrides of a pre-training of two epochs on the corpus."""
    import w2v_compress.models
    import w2v_compress.tasks  # noqa: F401  (registers)

    changed = {
        "task=": "task=compressed_pretraining",
        "task.data=": f"task.data={corpus}",
        "model=": "model=stochastic_sew",
        "model.required_seq_len_multiple=": "dataset.required_batch_size_multiple=1",
    }
    kept = [setting for setting in pretraining if not setting.startswith(tuple(changed))]
    return [
        *kept,
        *changed.values(),
        "optimization.max_epoch=2",
        "checkpoint.no_save=true",
        f"checkpoint.save_dir={tmp_path / 'run'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]


def rows(folder: Path) -> list[list[str]]:
    return [line.split("\t") for line in (folder / "run" / "bad_audio.tsv").read_text().splitlines()]


def test_bad_audio_is_left_out_and_listed(train: Train, settings: list[str], corpus: Path, tmp_path: Path) -> None:
    train(*settings, f"task.max_bad_share={len(FAULTS) / (GOOD + len(FAULTS))}")
    header, *listed = rows(tmp_path)
    assert header == ["path", "reason", "detail"]
    assert {Path(row[0]).stem for row in listed} == FAULTS.keys()
    assert len(listed) == len(FAULTS)
    for path, reason, detail in listed:
        assert f"{reason}\t{detail}".startswith(FAULTS[Path(path).stem][1])


def test_too_many_end_the_training(train: Train, settings: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"bad_audio.tsv: 4 of the 35 utterances of train are bad, more than the share"
    ):
        train(*settings, "task.max_bad_share=0.1", "dataset.batch_size=1")


def test_a_faulty_manifest_ends_it_before_it_starts(train: Train, settings: list[str], corpus: Path) -> None:
    with (corpus / "train.tsv").open("a") as file:
        file.write("../outside.wav\t8000\n")
    with pytest.raises(InputError, match=r"train.tsv: line 37: '../outside.wav' leaves the folder of line 1"):
        train(*settings)
