"""Checkpoints and settings are read without running code from them."""

import argparse
import io
import os
import pickle
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from w2v_compress import InputError, compat

compat.apply()

import fairseq  # noqa: E402
from fairseq import checkpoint_utils, utils  # noqa: E402
from fairseq.data import Dictionary  # noqa: E402
from fairseq.distributed import utils as distributed_utils  # noqa: E402
from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter  # noqa: E402
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model  # noqa: E402

WEIGHTS = OrderedDict(weight=torch.arange(3.0))
LAYERS = "[(8, 10, 5)] + [(8, 3, 2)] * 2"


def current_checkpoint() -> dict[str, Any]:
    cfg = {"task": {"_name": "audio_finetuning"}, "model": {"conv_feature_layers": LAYERS, "w2v_args": None}}
    history = [{"num_updates": 1, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}]
    state = {"task_state": {"target_dictionary": Dictionary()}, "optimizer_history": history, "extra_state": {}}
    return {"args": None, "cfg": cfg, "model": WEIGHTS, **state}


def checkpoint_of_2021() -> dict[str, Any]:
    """Return a checkpoint with `cfg` as OmegaConf objects around a Namespace, and numpy scalars in the state."""
    w2v_args = argparse.Namespace(conv_feature_layers=LAYERS)
    cfg = OmegaConf.create({"model": {"w2v_args": w2v_args, "lr": [0.1]}}, flags={"allow_objects": True})
    OmegaConf.set_struct(cfg, True)
    return {"cfg": cfg, "model": WEIGHTS, "extra_state": {"best": np.float64(4.5), "updates": np.int32(7)}}


def checkpoint_of_2020() -> dict[str, Any]:
    """Return a checkpoint with `args` as Namespaces, and meters as objects."""
    args = argparse.Namespace(
        arch="wav2vec_ctc", task="audio_pretraining", data="data", w2v_args=argparse.Namespace(extractor_mode="default")
    )
    meters = OrderedDict(train_loss=AverageMeter(), ups=TimeMeter(), train_wall=StopwatchMeter())
    return {"args": args, "model": WEIGHTS, "extra_state": {"train_meters": meters}}


@pytest.mark.parametrize("content", [current_checkpoint, checkpoint_of_2021, checkpoint_of_2020])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_checkpoints_are_read(tmp_path: Path, content: Callable[[], dict[str, Any]], zipped: bool) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content(), path, _use_new_zipfile_serialization=zipped)
    state = compat.load_checkpoint(path)
    assert torch.equal(state["model"]["weight"], WEIGHTS["weight"])
    if content is current_checkpoint:
        assert state["task_state"]["target_dictionary"].bos() == 0
        assert checkpoint_utils.load_checkpoint_to_cpu(str(path))["cfg"].model.conv_feature_layers == LAYERS
    elif content is checkpoint_of_2021:
        assert state["cfg"].model.w2v_args.conv_feature_layers == LAYERS
        assert state["extra_state"] == {"best": 4.5, "updates": 7}
    else:
        assert state["args"].w2v_args.extractor_mode == "default"
        assert state["extra_state"]["train_meters"]["train_wall"].n == 0


def test_threads_read_concurrently(tmp_path: Path) -> None:
    """Another thread repeatedly allows classes for the process in torch's unpickler and removes them."""
    paths = []
    for content in (current_checkpoint, checkpoint_of_2021, checkpoint_of_2020):
        paths.append(tmp_path / f"{content.__name__}.pt")
        torch.save(content(), paths[-1])
    stop = threading.Event()

    def change_allowed_classes() -> None:
        while not stop.is_set():
            with torch.serialization.safe_globals([argparse.Namespace, Dictionary, AverageMeter, np.dtype]):
                pass

    other = threading.Thread(target=change_allowed_classes)
    other.start()
    try:
        with ThreadPoolExecutor(8) as executor:
            states = list(executor.map(compat.load_checkpoint, 67 * paths))
    finally:
        stop.set()
        other.join()
    assert all(torch.equal(state["model"]["weight"], WEIGHTS["weight"]) for state in states)


def test_other_reads_do_not_allow_fairseq_classes(tmp_path: Path) -> None:
    torch.save(checkpoint_of_2020(), tmp_path / "checkpoint.pt")
    compat.load_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)


def test_concurrent_threads_patch_fairseq_once(tmp_path: Path) -> None:
    torch.save(current_checkpoint(), tmp_path / "checkpoint.pt")
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from w2v_compress import compat
with ThreadPoolExecutor(8) as executor:
    list(executor.map(compat.load_checkpoint, 16 * [{str(tmp_path / "checkpoint.pt")!r}]))
from fairseq import utils
print(len(utils.set_torch_seed.__mro__))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"  # the patched class, the stock class and object


class MaliciousCall:
    """Object whose pickle calls `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def malicious_calls(target: Path) -> dict[str, MaliciousCall]:
    return {
        f"{os.system.__module__}.system": MaliciousCall(os.system, f"touch '{target}'"),
        "eval": MaliciousCall(eval, f"open({str(target)!r}, 'w')"),
        "exec": MaliciousCall(exec, f"open({str(target)!r}, 'w')"),
        "getattr": MaliciousCall(getattr, argparse.Namespace, "__init__"),
        "subprocess.Popen": MaliciousCall(subprocess.Popen, ["touch", str(target)]),
        "io.open": MaliciousCall(io.open, str(target), "w"),
        "pickle.loads": MaliciousCall(pickle.loads, pickle.dumps(MaliciousCall(os.system, f"touch '{target}'"))),
        "numpy.load": MaliciousCall(np.load, str(target), None, True),
    }


@pytest.mark.parametrize("name", list(malicious_calls(Path())))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_malicious_pickle_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # has no effect
    path, target = tmp_path / "malicious.pt", tmp_path / "created"
    content = {**current_checkpoint(), "extra_state": malicious_calls(target)[name]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    with pytest.raises(InputError) as from_compat:
        compat.load_checkpoint(path)
    with pytest.raises(InputError) as from_fairseq:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    with pytest.raises(InputError, match="another process"):
        distributed_utils.torch.load(buffer)
    assert not target.exists()
    assert str(from_compat.value) == str(from_fairseq.value)
    assert str(from_compat.value).startswith(f"{path}: is rejected: it needs `")
    assert name.rpartition(".")[2] in str(from_compat.value)
    assert "\n" not in str(from_compat.value)


def test_a_pickled_numpy_type_cannot_create_pointers(tmp_path: Path) -> None:
    path = tmp_path / "pointer.pt"
    torch.save({"model": WEIGHTS, "best": MaliciousCall(np.dtype, "O")}, path)
    assert type(compat.load_checkpoint(path)["best"]) is not np.dtype
    scalar = np.float64(0).__reduce__()[0]
    torch.save({"model": WEIGHTS, "best": MaliciousCall(scalar, np.dtype("O"), b"8 bytes.")}, path)
    with pytest.raises(InputError, match="numpy scalar of type"):
        compat.load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"this is text\n", "damaged"),
        (b"RIFF....WAVEfmt ", "damaged"),
        ("truncated", "damaged"),
        (WEIGHTS["weight"], "has no model"),
        ({"weight": WEIGHTS["weight"]}, "has no model"),
        ("folder", "is not a plain file"),
        (None, "No such file"),
    ],
    ids=["empty", "text", "wav", "truncated", "tensor", "weights", "folder", "missing"],
)
def test_invalid_checkpoints_have_an_error_of_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        torch.save(current_checkpoint(), path)
        path.write_bytes(path.read_bytes()[:1000])
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=reason) as error:
        compat.load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("setting", compat.pickles.EVALUATED_SETTINGS)
@pytest.mark.parametrize("nesting", ["cfg", "args", "w2v_args", "omegaconf"])
def test_code_in_a_setting_is_rejected_on_load(tmp_path: Path, setting: str, nesting: str) -> None:
    path, target = tmp_path / "malicious.pt", tmp_path / "created"
    code = {setting: f"[(8, 10, 5)] + [open({str(target)!r}, 'w')]"}
    content = {
        "cfg": {"cfg": {"model": code}},
        "args": {"args": argparse.Namespace(**code)},
        "w2v_args": {"cfg": {"model": {"w2v_args": argparse.Namespace(model=[code])}}},
        "omegaconf": {"cfg": OmegaConf.create({"model": code})},
    }[nesting]
    torch.save({"model": WEIGHTS, **content}, path)
    for load in (compat.load_checkpoint, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(InputError, match=f"`{setting}`") as error:
            load(str(path))
        assert str(error.value).startswith(f"{path}: is rejected: the setting")
    assert not target.exists()


def test_code_in_a_setting_is_not_run_when_the_model_is_built(tmp_path: Path) -> None:
    """Such code could be in an interpolation in a checkpoint, or in a setting of another model."""
    target = tmp_path / "created"
    code = f"[(8, 10, 5)] + [open({str(target)!r}, 'w')]"
    with pytest.raises(InputError, match="a literal"):
        Wav2Vec2Model(Wav2Vec2Config(conv_feature_layers=code))
    with pytest.raises(InputError, match="a literal"):
        utils.eval_str_list(code)
    assert not target.exists()


def test_every_fairseq_module_that_calls_eval_is_patched() -> None:
    folder = Path(fairseq.__file__).parent
    sources = [path for path in folder.rglob("*.py") if "examples" not in path.relative_to(folder).parts]
    evaluating = [path for path in sources if re.search(r"(?<![.\w])eval\(", path.read_text(encoding="utf-8"))]
    names = [".".join(("fairseq", *path.relative_to(folder).with_suffix("").parts)) for path in evaluating]
    assert "fairseq.models.wav2vec.wav2vec2" in names
    # `apply` has imported them all; a module imported later would have Python's own `eval`.
    assert not [name for name in names if getattr(sys.modules.get(name), "eval", None) is not compat.pickles.evaluate]


@pytest.mark.parametrize("text", ["(0.9,0.98)", "None", "[1, 2]", "True", "{'a': 1}", "1e-3", LAYERS])
def test_settings_evaluate_as_in_python(text: str) -> None:
    assert compat.pickles.evaluate(text) == eval(text)


def test_a_rejection_is_one_line_on_the_terminal(tmp_path: Path) -> None:
    """The warnings, messages and root logger that fairseq creates on import are suppressed."""
    torch.save({"model": MaliciousCall(os.system, "true")}, tmp_path / "malicious.pt")
    program = "import logging, sys; from w2v_compress import compat, InputError\n"
    program += "try: compat.load_checkpoint(sys.argv[1])\nexcept InputError as error: print(error, file=sys.stderr)\n"
    program += "print(logging.getLogger().handlers)"
    command = [sys.executable, "-c", program, str(tmp_path / "malicious.pt")]
    done = subprocess.run(command, cwd=compat.plugin.user_dir().parent, capture_output=True, text=True, check=True)
    assert done.stderr.startswith(f"{tmp_path / 'malicious.pt'}: is rejected")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "[]\n"
