"""The command line as users see it: output, exit status, and one-line errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import w2v_compress
from w2v_compress import InputError
from w2v_compress.model_file.storage import ModelFile, write_model
from w2v_compress.model_file.tensor_file import read_header
from w2v_compress.nn import architecture

Run = Callable[..., tuple[int, str, str]]
VERBS = (
    *("user-dir", "config-dir", "prepare", "train", "export", "import", "models", "info", "quantize", "transcribe"),
    *("evaluate", "sweep", "benchmark", "tables"),
)


def test_help_shows_defaults_in_brackets_and_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run("transcribe", "--help")
    assert status == 0
    words = " ".join(out.replace("│", " ").split())
    for default in ("(default: 25)", "(default: 2)", "(default: 0)", "[default: 8]"):
        assert default in words
    assert max(map(len, out.splitlines())) <= 80


def test_help_version_and_user_dir(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    for command in VERBS:
        assert command in out
        assert run(command, "--help")[0] == 0
    assert run("--version") == (0, f"{w2v_compress.__version__}\n", "")
    assert run("user-dir") == (0, f"{os.path.dirname(os.path.abspath(w2v_compress.__file__))}\n", "")


def test_help_is_quick_because_it_imports_no_torch() -> None:
    program = "import sys, w2v_compress.cli; print('torch' in sys.modules, 'fairseq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["transcribe"],
        ["transcribe", "m", "a.wav", "--precision", "fp8"],
        ["transcribe", "m", "a.wav", "--batch-size", "0"],
        ["export", "only-one"],
        ["export", "--architecture", "base", "one", "two"],
        ["prepare", "scrolls", "a", "b"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert "Usage" in err


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "w2v_compress", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{w2v_compress.__version__}\n"


def test_checkpoints_and_folders_are_rejected_with_the_command_that_converts_them(
    run: Run, tmp_path: Path, wav: Callable[..., Path]
) -> None:
    for zipped in (True, False):
        torch.save({"model": {}}, tmp_path / "teacher.pt", _use_new_zipfile_serialization=zipped)
        status, _, err = run("transcribe", tmp_path / "teacher.pt", wav("a.wav", 1.0))
        assert (status, err.count("\n")) == (1, 1)
        assert err.endswith(f"`w2v-compress export {tmp_path / 'teacher.pt'} OUT.safetensors`\n")
    with pytest.raises(InputError, match=r"is a folder; .*`w2v-compress import .* OUT\.safetensors`"):
        w2v_compress.load(str(tmp_path))
    with pytest.raises(InputError, match="is not a plain file"):
        w2v_compress.load(os.devnull)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=student_ctc"], "train: no task is chosen, but model.normalize is read from task.normalize: give one"),
        (["task=compressed_finetuning", "criterion=ctc", "model=compressed_ctc"], "train: task.data is missing: give"),
        ([], "train: the batch size is missing: give dataset.max_tokens="),
    ],
)
def test_training_names_missing_settings(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "w2v_compress", "train", *arguments, f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"w2v-compress: {message}")
    assert "Traceback" not in done.stderr


def test_invalid_models_print_one_line(run: Run, tiny_path: Path, wav: Callable[..., Path], tmp_path: Path) -> None:
    audio = wav("a.wav", 1.0)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(tiny_path.read_bytes()[:-7])
    for model in (broken, tmp_path / "missing.safetensors", audio, tmp_path):
        for arguments in (["transcribe", model, audio], ["info", model], ["quantize", model, tmp_path / "out"]):
            status, out, err = run(*arguments)
            assert (status, out) == (1, "")
            assert len(err.splitlines()) == 1
            assert err.startswith(f"w2v-compress: {model}: ")
    assert run("transcribe", tiny_path, audio, "--precision", "int8")[0] == 1
    assert not (tmp_path / "out").exists()


def test_other_system_errors_print_one_line(run: Run, tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("w2v_compress.model_file.tensor_file.describe_model", fail)
    assert run("info", tiny_path) == (1, "", f"w2v-compress: {tiny_path}: Permission denied\n")


def test_info(run: Run, tiny_path: Path, tmp_path: Path) -> None:
    report = tmp_path / "info.json"
    status, out, err = run("info", tiny_path, "--json", report)
    assert (status, err) == (0, "")
    values = json.loads(report.read_text())
    assert f"{values['parameters']:,}" in out
    assert values["bytes"] == tiny_path.stat().st_size
    assert values["architecture"]["encoder_layers"] == 2


def test_quantize_prints_size_and_error_rate(
    run: Run, tiny_model: Callable[..., ModelFile], data: Path, tmp_path: Path
) -> None:
    model, out_path, report = tmp_path / "fp32.safetensors", tmp_path / "int8.safetensors", tmp_path / "report.json"
    write_model(model, tiny_model(encoder_ffn_embed_dim=2048))
    status, out, err = run("quantize", model, out_path, "--data", data, "--subset", "dev", "--json", report)
    assert (status, err) == (0, "")
    values = json.loads(report.read_text())
    assert values["ratio"] == model.stat().st_size / out_path.stat().st_size > 2.5
    assert f"{values['ratio']:.2f} times smaller" in out
    difference = values["wer_difference"]["value"]
    assert difference == pytest.approx(values["after"]["wer"]["value"] - values["before"]["wer"]["value"])
    status, _, err = run("quantize", out_path, tmp_path / "again.safetensors")
    assert status == 1
    assert "already quantized" in err


def test_quantize_leaves_nothing_behind_that_it_cannot_measure(
    run: Run, tiny_path: Path, data: Path, tmp_path: Path
) -> None:
    out_path = tmp_path / "int8" / "int8.safetensors"
    first = tmp_path / "0.wav"
    first.write_bytes(first.read_bytes()[:20])
    status, _, err = run("quantize", tiny_path, out_path, "--data", data, "--subset", "dev")
    assert status == 1
    assert err.startswith(f"w2v-compress: {first}: ")
    assert not out_path.parent.exists()


def test_quantize_prints_the_cost_of_each_part_and_keeps_parts(
    run: Run, tiny_path: Path, data: Path, tmp_path: Path
) -> None:
    out_path, report = tmp_path / "int8.safetensors", tmp_path / "report.json"
    status, out, err = run(
        "quantize",
        tiny_path,
        out_path,
        "--scheme",
        "paper",
        "--sensitivity",
        "--keep",
        "head, layers.0",
        "--json",
        report,
    )
    assert (status, err) == (0, "")
    values = json.loads(report.read_text())
    assert {row["part"] for row in values["sensitivity"]} == {"projection", "layers.0", "layers.1", "head"}
    assert all(row["part"] in out and f"{row['logit_error']:.4f}" in out for row in values["sensitivity"])
    assert read_header(out_path).quantization == {"scheme": "paper", "keep": ["head", "layers.0"]}
    limit = ("--max-wer-increase", "100", "--data", data, "--subset", "dev")
    status, out, err = run("quantize", tiny_path, out_path, *limit, "--json", report)
    assert (status, err) == (0, "")
    assert "left in floating point to limit the WER increase to 100 points: none" in out
    values = json.loads(report.read_text())
    assert values["keep"] == read_header(out_path).quantization["keep"] == []
    assert all(row["wer_increase"] is not None for row in values["sensitivity"])
    status, _, err = run("quantize", tiny_path, out_path, "--keep", "layers.7")
    assert status == 1
    assert "`keep` names 'layers.7'; it must be one of extractor.1, " in err
    assert len(err.splitlines()) == 1
    assert run("quantize", tiny_path, out_path, "--max-wer-increase", "1")[0] == 2
    assert run("quantize", tiny_path, out_path, "--max-wer-increase", "-1", "--data", data)[0] == 2


def test_export_random_weights_and_a_malicious_checkpoint(run: Run, tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "trace"),)

    checkpoint, out_path = tmp_path / "malicious.pt", tmp_path / "out.safetensors"
    torch.save({"model": {}, "args": Malicious()}, checkpoint)
    status, out, err = run("export", checkpoint, out_path)
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "trace").exists()
    status, _, err = run("export", "--architecture", "huge", out_path)
    assert (status, err.count("\n")) == (1, 1)
    assert not out_path.exists()
    status, out, err = run("export", "--architecture", "base", tmp_path / "base.bin")
    assert (status, out) == (1, "")
    assert err.startswith(f"w2v-compress: {tmp_path / 'base.bin'}: ")


def test_export_a_random_checkpoint_and_that_again(
    run: Run, tmp_path: Path, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(architecture.ARCHITECTURES, "tiny", read_header(tiny_path).architecture)
    checkpoint, out_path = tmp_path / "tiny.pt", tmp_path / "tiny.safetensors"
    status, out, err = run("export", "--architecture", "tiny", checkpoint)
    assert (status, err) == (0, "")
    assert out.startswith(f"{checkpoint}: ")
    assert run("export", checkpoint, out_path)[0] == 0
    assert read_header(out_path) == read_header(tiny_path)


def test_prepare(run: Run, wav: Callable[..., Path], tmp_path: Path) -> None:
    wav("a.wav", 1.0)
    (tmp_path / "list.csv").write_text("path,text,split\na.wav,yes,train\nabsent.wav,no,train\n")
    report = tmp_path / "report.json"
    arguments = ["prepare", "csv", tmp_path / "list.csv", tmp_path / "out"]
    status, _, err = run(*arguments, "--json", report)
    assert (status, err) == (0, "")
    assert (tmp_path / "out" / "train.tsv").is_file()
    assert (tmp_path / "out" / "rejected.tsv").read_text().count("absent.wav") == 1
    assert sum(json.loads(report.read_text())["rejected"].values()) == 1
    status, _, err = run(*arguments, "--strict")
    assert (status, err.count("\n")) == (1, 1)


def test_train_passes_its_arguments_to_fairseq_with_the_plugin_registered(tmp_path: Path) -> None:
    """Hydra prints the composed configuration; `model=student_ctc` comes from the plugin and is in no yaml file."""
    program = "import sys; from w2v_compress.cli import main; main()"
    arguments = ["train", "model=student_ctc", "model.encoder_layers=3", "--cfg", "job", "--package", "model"]
    command = [sys.executable, "-c", program, *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(w2v_compress.__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "encoder_layers: 3" in done.stdout
    assert "_name: student_ctc" in done.stdout
    command = [*command[:3], "train", "model=student_ctc", "+model.encoder_layers=3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("w2v-compress: train: Could not append to config.")
