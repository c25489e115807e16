from pathlib import Path

import numpy as np
import pytest
import soundfile

from w2v_compress.data.manifest import Utterance, fits_manifest, read_manifest, write_manifest
from w2v_compress.data.units import Units
from w2v_compress.errors import InputError


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Two utterances in different folders; one path has a space and a colon."""
    made = []
    for name, samples, text in (("a b/x:1.flac", 3_000, "ONE"), ("c/y.wav", 2_000, "IT'S TWO")):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, np.full(samples, 0.25, np.float32), 16_000)
        made.append(Utterance(path, samples, text))
    return made


def test_round_trip(utterances: list[Utterance], tmp_path: Path) -> None:
    write_manifest(tmp_path, "dev", utterances, Units.letters())
    assert list(read_manifest(tmp_path, "dev")) == utterances
    assert utterances[0].seconds == 3_000 / 16_000
    assert (tmp_path / "dev.tsv").read_text() == f"{tmp_path}/corpus\na b/x:1.flac\t3000\nc/y.wav\t2000\n"
    assert (tmp_path / "dev.ltr").read_text() == "O N E |\nI T ' S | T W O |\n"
    assert (tmp_path / "dev.wrd").read_text() == "ONE\nIT'S TWO\n"


def test_fairseq_reads_the_same(utterances: list[Utterance], tmp_path: Path) -> None:
    dataset_class = pytest.importorskip("fairseq.data").FileAudioDataset
    write_manifest(tmp_path, "dev", utterances, Units.letters())
    dataset = dataset_class(str(tmp_path / "dev.tsv"), sample_rate=16_000)
    assert dataset.sizes.tolist() == [3_000, 2_000]
    for index, utterance in enumerate(utterances):
        source = dataset[index]["source"]
        assert source.shape == (utterance.samples,)
        assert float(source[0]) == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dev.tsv": None}, "no subset 'dev'; there is test"),
        ({"dev.wrd": None}, "dev.wrd: cannot be read"),
        ({"dev.wrd": "ONE\n"}, "has 2 utterances, but dev.wrd has 1 lines"),
        ({"dev.tsv": ""}, "holds no utterances"),
        ({"dev.tsv": "/root\n", "dev.wrd": ""}, "holds no utterances"),
        ({"dev.tsv": "/root\na.flac\t100\nb.flac\n"}, "dev.tsv: line 3 is 'b.flac'"),
        ({"dev.tsv": "/root\na.flac\tmany\nb.flac\t5\n"}, "dev.tsv: line 2 is"),
        ({"dev.wrd": b"\xff\n\xff\n"}, "dev.wrd: line 1 is not UTF-8"),
    ],
)
def test_invalid_manifests_are_rejected(
    change: dict, message: str, utterances: list[Utterance], tmp_path: Path
) -> None:
    for subset in ("dev", "test"):
        write_manifest(tmp_path, subset, utterances, Units.letters())
    for name, content in change.items():
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path, "dev")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        read_manifest(tmp_path / "absent", "dev")


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/a/b.flac", True),
        ("/a b/é:1.wav", True),
        ("/a/b.opus", False),
        ("/a/b\t.flac", False),
        ("/a\n/b.flac", False),
        ("/a / b.flac", False),
        ("/a/\udcff.flac", False),
    ],
)
def test_fits_manifest(path: str, fits: bool) -> None:
    assert fits_manifest(Path(path)) == fits
