"""Exported folders in transformers, compared with `Recognizer`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from w2v_compress.data.units import Units
from w2v_compress.interop import transformers_export
from w2v_compress.interop.parity import Difference
from w2v_compress.model_file.header import Header
from w2v_compress.model_file.storage import ModelFile, read_model, write_model
from w2v_compress.runtime.recognizer import Recognizer

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("like", "normalize", "changes"),
    [
        ("large", True, {}),
        ("base", False, {}),
        ("large", True, {"encoder_embed_dim": 16, "learned_upsampling": (2,), "conv_pos": 15, "activation_fn": "relu"}),
    ],
    ids=["large", "base", "equal-widths"],
)
def test_logits_equal_those_of_the_recognizer_and_import_restores_the_model(
    like: str,
    normalize: bool,
    changes: dict[str, Any],
    run: Run,
    tmp_path: Path,
    small_path: Callable[..., Path],
    utterances: list[np.ndarray],
) -> None:
    path, folder = small_path(like, normalize=normalize, **changes), tmp_path / "folder"
    status, printed, err = run("export", path, folder, "--format", "transformers", "--point", "1,1,1")
    assert (status, err) == (0, "")
    assert printed.startswith(f"{folder}: ")
    assert sorted(os.listdir(folder)) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    transformers = transformers_export.load_package()
    processor = transformers.Wav2Vec2Processor.from_pretrained(folder)
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder).eval()
    recognizer = Recognizer.load(path, precision="fp32")
    for audio in utterances:
        audio = audio / audio.std()  # loud: transformers' normalization adds 1e-7 to the variance, fairseq's 1e-5
        inputs = processor(audio, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**inputs).logits[0]
        expected = recognizer.emissions(audio, 16_000, point="1,1,1")
        np.testing.assert_allclose(logits.log_softmax(-1), expected, atol=5e-4, rtol=0)
    back = tmp_path / "back.safetensors"
    status, printed, err = run("import", folder, back)
    assert (status, err) == (0, "")
    assert printed.startswith(f"{back}: ")
    original, returned = read_model(path), read_model(back)
    assert returned.header.units == original.header.units
    assert returned.header.normalize is normalize
    assert returned.state.keys() == {name for name in original.state if "upsampling" not in name}
    assert all(torch.equal(tensor, original.state[name]) for name, tensor in returned.state.items())


def test_the_documented_way_works_as_printed(
    run: Run, tmp_path: Path, small_path: Callable[..., Path], wav: Callable[..., Path]
) -> None:
    """In an environment made as README says, fairseq installs a torchaudio that cannot be imported."""
    path, audio = small_path("base"), wav("speech.wav", 1.0)
    assert run("export", path, tmp_path / "folder", "--format", "transformers")[0] == 0
    docs = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", docs, re.DOTALL) if "Wav2Vec2ForCTC" in block]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    written = re.sub("<s>|</s>|<unk>", "", done.stdout)  # output only by a network that was never trained
    assert written.split() == Recognizer.load(path, precision="fp32").transcribe(audio).split()


@pytest.mark.parametrize("first", ["", "import transformers\n"])
def test_transformers_loads_beside_a_broken_torchaudio(first: str, tmp_path: Path) -> None:
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("raise OSError('Could not load this library')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{first}"
    program += "from w2v_compress.interop.transformers_export import load_package\nload_package().Wav2Vec2ForCTC\n"
    program += "print('torchaudio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_unsupported_models_print_one_line_and_leave_no_folder(
    run: Run, tmp_path: Path, small_path: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = small_path("base", normalize=False, point="2,1,1"), tmp_path / "folder"
    command = ("export", path, folder, "--format", "transformers")
    status, _, err = run(*command)
    assert (status, err.count("\n")) == (1, 1)
    assert "the point is 2,1,1; it must be 1,1,1, because" in err
    folder.mkdir()
    (folder / "mine").touch()
    status, _, err = run(*command, "--point", "1,1,1")
    assert (status, err) == (1, f"w2v-compress: {folder}: cannot be written: it exists and is not an empty folder\n")
    (folder / "mine").unlink()
    monkeypatch.setattr(transformers_export, "compare_logits", lambda *_: Difference(0.01, 0.0))
    status, _, err = run(*command, "--point", "1,1,1")
    assert status == 1
    assert "not written: its logits differ from the network's by up to 0.01" in err
    monkeypatch.undo()
    monkeypatch.setattr(Units, "decode", lambda *_: "SOMETHING ELSE")
    status, _, err = run(*command, "--point", "1,1,1")
    assert status == 1
    assert "and our units 'SOMETHING ELSE'" in err
    monkeypatch.undo()
    assert os.listdir(folder) == []
    assert sorted(os.listdir(tmp_path)) == ["folder", "small.safetensors"]
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'transformers<" in run(*command)[2]


def test_sentencepiece_units_are_rejected(run: Run, tmp_path: Path, tiny_model: Callable[..., ModelFile]) -> None:
    units = Units.train_sentencepiece(["ONE TWO THREE FOUR", "FIVE SIX SEVEN"] * 5, 19)
    model = tiny_model(num_units=len(units.symbols))
    path = tmp_path / "pieces.safetensors"
    write_model(
        path, ModelFile(Header(architecture=model.header.architecture, units=units, normalize=True), model.state)
    )
    status, _, err = run("export", path, tmp_path / "folder", "--format", "transformers")
    assert (status, err.count("\n")) == (1, 1)
    assert "its units are sentencepiece" in err


def test_blank_is_the_padding_token(tiny_model: Callable[..., ModelFile], tmp_path: Path) -> None:
    transformers_export.write_folder(tiny_model(), tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert [vocabulary[name] for name in ("<pad>", "<s>", "</s>", "<unk>", "|", "E")] == [0, 1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == 0
