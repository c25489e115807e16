"""All steps with `fairseq-hydra-train` and `common.user_dir`: pre-train, fine-tune, distil, resume, export."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2v_compress import compat, load
from w2v_compress.data.prepare import prepare
from w2v_compress.interop.fairseq_checkpoint import export_checkpoint

HERE = Path(__file__).resolve().parent
WORDS = ("ONE", "TWO", "THREE")


def hydra_train(config: str, save_dir: Path, *overrides: str) -> list[dict[str, str]]:
    """Run fairseq-hydra-train, and return the values that it logs after each update."""
    command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), "--config-dir", str(HERE)]
    command += ["--config-name", config, f"hydra.run.dir={save_dir}", f"checkpoint.save_dir={save_dir}"]
    command += [f"common.user_dir={compat.plugin.user_dir()}", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=save_dir.parent)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = re.findall(r"\[train_inner\]\[INFO\] - ({.*})", done.stdout + done.stderr)
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def data(folder) -> Path:
    """A manifest folder of tones as words, sufficient to run every step."""
    generator = np.random.default_rng(1)
    rows = ["path,text,split"]
    for index in range(16):
        words = generator.choice(3, size=2)
        tones = [np.sin(np.arange(6000 + 500 * word) * 0.05 * (word + 1)) for word in words]
        samples = np.concatenate(tones) + 0.1 * generator.standard_normal(sum(len(tone) for tone in tones))
        soundfile.write(folder / f"{index}.wav", 0.5 * samples, 16000)
        split = "train" if index < 12 else "dev"
        rows.append(f"{index}.wav,{' '.join(WORDS[word] for word in words)},{split}")
    (folder / "utterances.csv").write_text("\n".join(rows))
    prepare("csv", folder, folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def teacher(folder, data) -> Path:
    hydra_train("pretrain", folder / "pretrained", f"task.data={data}")
    pretrained = folder / "pretrained" / "checkpoint_last.pt"
    updates = hydra_train("finetune", folder / "teacher", f"task.data={data}", f"model.w2v_path={pretrained}")
    assert [update["num_updates"] for update in updates] == ["1", "2"]
    pretrained.unlink()  # no later step may need it
    return folder / "teacher" / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def distillation(folder, data, teacher) -> list[str]:
    return [f"task.data={data}", f"criterion.teacher_checkpoint={teacher}", f"model.init_checkpoint={teacher}"]


@pytest.fixture(scope="module")
def student(folder, distillation) -> Path:
    """A student after two updates and, in a second process, two more."""
    first = hydra_train("distil", folder / "student", *distillation)
    resumed = hydra_train("distil", folder / "student", *distillation, "optimization.max_update=4")
    assert [update["num_updates"] for update in first + resumed] == ["1", "2", "3", "4"]
    for update in first + resumed:
        assert {"kl", "ctc", "features_penalty"} <= update.keys()
        expected = (float(update["kl"]) + 0.5 * float(update["ctc"]) + float(update["features_penalty"])) / np.log(2)
        assert float(update["loss"]) == pytest.approx(expected, rel=2e-3)
    return folder / "student" / "checkpoint_last.pt"


def test_a_resumed_run_equals_an_uninterrupted_one(folder, distillation, student):
    hydra_train("distil", folder / "straight", *distillation, "optimization.max_update=4")
    resumed = compat.load_checkpoint(student)["model"]
    straight = compat.load_checkpoint(folder / "straight" / "checkpoint_last.pt")["model"]
    assert resumed.keys() == straight.keys()
    for name, tensor in resumed.items():
        torch.testing.assert_close(tensor, straight[name], rtol=0, atol=1e-6)


def test_the_student_is_self_contained_and_transcribes(folder, student, teacher):
    checkpoint = compat.load_checkpoint(student)
    layers = {name.split(".")[4] for name in checkpoint["model"] if ".encoder.layers." in name}
    assert layers == {"0"}
    assert checkpoint.get("criterion") is None
    parameters = sum(tensor.numel() for tensor in checkpoint["model"].values())
    assert (
        student.stat().st_size < 3.2 * 4 * parameters + 60_000
    )  # weights and two moments of Adam, without the teacher

    hidden = teacher.rename(teacher.with_suffix(".hidden"))
    try:
        export_checkpoint(student, folder / "student.safetensors")
    finally:
        hidden.rename(teacher)
    text = load(folder / "student.safetensors").transcribe(folder / "0.wav")
    assert isinstance(text, str)


def test_stock_fairseq_reads_the_student_and_agrees_with_the_runtime(folder, student, data):
    from fairseq import checkpoint_utils

    import w2v_compress.models  # noqa: F401  (registers student_ctc)

    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(student)], arg_overrides={"data": str(data)})
    export_checkpoint(student, folder / "agreeing.safetensors")
    recognizer = load(folder / "agreeing.safetensors", precision="fp32")
    samples = soundfile.read(folder / "1.wav", dtype="float32")[0]
    audio = torch.nn.functional.layer_norm(torch.from_numpy(samples), (len(samples),))[None]
    model.eval()
    with torch.no_grad():
        expected = model.get_normalized_probs(model(source=audio, padding_mask=None), log_probs=True)[:, 0]
    emissions = torch.as_tensor(recognizer.emissions(folder / "1.wav"))
    torch.testing.assert_close(emissions, expected, atol=1e-5, rtol=1e-5)


def test_a_chain_of_students_with_every_term_and_projections(folder, distillation, student, teacher):
    """Distil teacher -> student -> narrower student, which is initialized from the student."""
    narrow = ["+model.encoder_embed_dim=16", f"model.init_checkpoint={student}", "+criterion.cosine_weight=0.3"]
    narrow += ["+criterion.hidden_weight=0.5", "common.fp16=false", "common.bf16=true"]
    first = hydra_train("distil", folder / "narrow", *distillation, *narrow)
    resumed = hydra_train("distil", folder / "narrow", *distillation, *narrow, "optimization.max_update=3")
    assert [update["num_updates"] for update in first + resumed] == ["1", "2", "3"]
    for update in first + resumed:
        weights = {"kl": 1, "ctc": 0.5, "features_penalty": 1, "cosine": 0.3, "hidden": 0.5}
        expected = sum(weight * float(update[name]) for name, weight in weights.items()) / np.log(2)
        assert float(update["loss"]) == pytest.approx(expected, rel=1e-2)
    checkpoint = compat.load_checkpoint(folder / "narrow" / "checkpoint_last.pt")
    assert set(checkpoint["criterion"]) == {"projections.0.weight", "projections.0.bias"}
    export_checkpoint(folder / "narrow" / "checkpoint_last.pt", folder / "narrow.safetensors")
    assert isinstance(load(folder / "narrow.safetensors").transcribe(folder / "0.wav"), str)


def test_two_processes_train_the_same_student_with_projections(folder, distillation, two_processes):
    """The projections of the criterion are trained and remain equal."""
    save_dir = folder / "two"
    arguments = ["--config-dir", str(HERE), "--config-name", "distil", f"hydra.run.dir={save_dir}"]
    arguments += [f"checkpoint.save_dir={save_dir}", f"common.user_dir={compat.plugin.user_dir()}", *distillation]
    arguments += ["+criterion.hidden_weight=0.5", "+criterion.hidden_projection=always", "dataset.max_tokens=16000"]
    arguments += ["distributed_training.ddp_backend=pytorch_ddp", "distributed_training.find_unused_parameters=true"]
    two_processes([str(Path(sys.executable).with_name("fairseq-hydra-train"))], *arguments)
    checkpoint = compat.load_checkpoint(save_dir / "checkpoint_last.pt")
    weight = checkpoint["criterion"]["projections.0.weight"]
    assert not torch.equal(weight, torch.eye(len(weight)))  # changed from the initial identity


def test_an_invalid_setting_is_named(folder, distillation, data, tmp_path):
    command = [str(Path(sys.executable).with_name("w2v-compress")), "train", "--config-dir", str(HERE)]
    command += ["--config-name", "distil", f"hydra.run.dir={tmp_path}", f"checkpoint.save_dir={tmp_path}"]
    done = subprocess.run([*command, *distillation, "criterion.temperature=0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "criterion.temperature is 0.0; it must be above 0" in done.stderr
