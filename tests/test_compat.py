"""compat: each fix of fairseq, and that a checkpoint cannot run code."""

import argparse
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
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
from fairseq.data.audio.raw_audio_dataset import RawAudioDataset  # noqa: E402
from fairseq.data.data_utils import compute_mask_indices  # noqa: E402
from fairseq.distributed import utils as distributed_utils  # noqa: E402
from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter  # noqa: E402
from fairseq.models.distributed_fairseq_model import DistributedFairseqModel  # noqa: E402
from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model  # noqa: E402

WEIGHTS = OrderedDict(weight=torch.arange(3.0))
LAYERS = "[(8, 10, 5)] + [(8, 3, 2)] * 2"


# --- checkpoints --------------------------------------------------------------------------------------------------


def of_today() -> dict[str, Any]:
    cfg = {"task": {"_name": "audio_finetuning"}, "model": {"conv_feature_layers": LAYERS, "w2v_args": None}}
    history = [{"num_updates": 1, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}]
    state = {"task_state": {"target_dictionary": Dictionary()}, "optimizer_history": history, "extra_state": {}}
    return {"args": None, "cfg": cfg, "model": WEIGHTS, **state}


def of_2021() -> dict[str, Any]:
    """`cfg` as OmegaConf objects, with a Namespace inside, and numpy numbers in the training state."""
    w2v_args = argparse.Namespace(conv_feature_layers=LAYERS)
    cfg = OmegaConf.create({"model": {"w2v_args": w2v_args, "lr": [0.1]}}, flags={"allow_objects": True})
    OmegaConf.set_struct(cfg, True)
    return {"cfg": cfg, "model": WEIGHTS, "extra_state": {"best": np.float64(4.5), "updates": np.int32(7)}}


def of_2020() -> dict[str, Any]:
    """`args` as Namespaces, and meters as objects."""
    args = argparse.Namespace(
        arch="wav2vec_ctc", task="audio_pretraining", data="data", w2v_args=argparse.Namespace(extractor_mode="default")
    )
    meters = OrderedDict(train_loss=AverageMeter(), ups=TimeMeter(), train_wall=StopwatchMeter())
    return {"args": args, "model": WEIGHTS, "extra_state": {"train_meters": meters}}


@pytest.mark.parametrize("content", [of_today, of_2021, of_2020])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_checkpoints_are_read(tmp_path: Path, content: Callable[[], dict[str, Any]], zipped: bool) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(content(), path, _use_new_zipfile_serialization=zipped)
    state = compat.load_checkpoint(path)
    assert torch.equal(state["model"]["weight"], WEIGHTS["weight"])
    if content is of_today:
        assert state["task_state"]["target_dictionary"].bos() == 0
        assert checkpoint_utils.load_checkpoint_to_cpu(str(path))["cfg"].model.conv_feature_layers == LAYERS
    elif content is of_2021:
        assert state["cfg"].model.w2v_args.conv_feature_layers == LAYERS
        assert state["extra_state"] == {"best": 4.5, "updates": 7}
    else:
        assert state["args"].w2v_args.extractor_mode == "default"
        assert state["extra_state"]["train_meters"]["train_wall"].n == 0


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    """Beside one that allows classes of its own in torch's unpickler, for the process, and takes them back."""
    paths = []
    for content in (of_today, of_2021, of_2020):
        paths.append(tmp_path / f"{content.__name__}.pt")
        torch.save(content(), paths[-1])
    stop = threading.Event()

    def meddle() -> None:
        while not stop.is_set():
            with torch.serialization.safe_globals([argparse.Namespace, Dictionary, AverageMeter, np.dtype]):
                pass

    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        with ThreadPoolExecutor(8) as executor:
            states = list(executor.map(compat.load_checkpoint, 67 * paths))
    finally:
        stop.set()
        meddler.join()
    assert all(torch.equal(state["model"]["weight"], WEIGHTS["weight"]) for state in states)


def test_others_read_with_what_they_allow(tmp_path: Path) -> None:
    torch.save(of_2020(), tmp_path / "checkpoint.pt")
    compat.load_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)


@pytest.mark.slow
def test_fairseq_is_mended_once_by_many_threads(tmp_path: Path) -> None:
    torch.save(of_today(), tmp_path / "checkpoint.pt")
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from w2v_compress import compat
with ThreadPoolExecutor(8) as executor:
    list(executor.map(compat.load_checkpoint, 16 * [{str(tmp_path / "checkpoint.pt")!r}]))
from fairseq import utils
print(len([kind for kind in utils.set_torch_seed.__mro__ if kind.__name__ == "SetTorchSeed"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


class Hostile:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def hostile_calls(target: Path) -> dict[str, Hostile]:
    return {
        f"{os.system.__module__}.system": Hostile(os.system, f"touch '{target}'"),
        "eval": Hostile(eval, f"open({str(target)!r}, 'w')"),
        "exec": Hostile(exec, f"open({str(target)!r}, 'w')"),
        "getattr": Hostile(getattr, argparse.Namespace, "__init__"),
        "subprocess.Popen": Hostile(subprocess.Popen, ["touch", str(target)]),
        "io.open": Hostile(io.open, str(target), "w"),
        "pickle.loads": Hostile(pickle.loads, pickle.dumps(Hostile(os.system, f"touch '{target}'"))),
        "numpy.load": Hostile(np.load, str(target), None, True),
    }


@pytest.mark.parametrize("name", list(hostile_calls(Path())))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # not even then
    path, target = tmp_path / "hostile.pt", tmp_path / "created"
    content = {**of_today(), "extra_state": hostile_calls(target)[name]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    buffer.seek(0)
    with pytest.raises(InputError) as ours:
        compat.load_checkpoint(path)
    with pytest.raises(InputError) as of_fairseq:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    with pytest.raises(InputError, match="another process"):
        distributed_utils.torch.load(buffer)
    assert not target.exists()
    assert str(ours.value) == str(of_fairseq.value)
    assert str(ours.value).startswith(f"{path}: is refused: it needs `")
    assert name.rpartition(".")[2] in str(ours.value)
    assert "\n" not in str(ours.value)


def test_a_numpy_type_in_a_pickle_cannot_reach_pointers(tmp_path: Path) -> None:
    path = tmp_path / "pointer.pt"
    torch.save({"model": WEIGHTS, "best": Hostile(np.dtype, "O")}, path)
    assert type(compat.load_checkpoint(path)["best"]) is not np.dtype
    scalar = np.float64(0).__reduce__()[0]
    torch.save({"model": WEIGHTS, "best": Hostile(scalar, np.dtype("O"), b"8 bytes.")}, path)
    with pytest.raises(InputError, match="numpy scalar of type"):
        compat.load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"this is text\n", "damaged"),
        (b"RIFF....WAVEfmt ", "damaged"),
        ("truncated", "damaged"),
        (WEIGHTS["weight"], "holds no model"),
        ({"weight": WEIGHTS["weight"]}, "holds no model"),
        ("folder", "cannot be read"),
        (None, "No such file"),
    ],
    ids=["empty", "text", "wav", "truncated", "tensor", "weights", "folder", "missing"],
)
def test_what_is_no_checkpoint_gets_one_line(tmp_path: Path, content: Any, reason: str) -> None:
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        torch.save(of_today(), path)
        path.write_bytes(path.read_bytes()[:1000])
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=reason) as error:
        compat.load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("setting", compat.pickles.EVALUATED_SETTINGS)
@pytest.mark.parametrize("nesting", ["cfg", "args", "w2v_args", "omegaconf"])
def test_code_in_a_setting_is_refused_on_load(tmp_path: Path, setting: str, nesting: str) -> None:
    path, target = tmp_path / "hostile.pt", tmp_path / "created"
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
        assert str(error.value).startswith(f"{path}: is refused")
    assert not target.exists()


def test_code_in_a_setting_is_not_run_when_the_model_is_built(tmp_path: Path) -> None:
    """As from a checkpoint that hides it behind an interpolation, or in a model that nobody thought of."""
    target = tmp_path / "created"
    code = f"[(8, 10, 5)] + [open({str(target)!r}, 'w')]"
    with pytest.raises(InputError, match="a literal"):
        Wav2Vec2Model(Wav2Vec2Config(conv_feature_layers=code))
    with pytest.raises(InputError, match="a literal"):
        utils.eval_str_list(code)
    assert not target.exists()


def test_every_module_of_fairseq_that_evaluates_is_mended() -> None:
    folder = Path(fairseq.__file__).parent
    sources = [path for path in folder.rglob("*.py") if "examples" not in path.relative_to(folder).parts]
    evaluating = [path for path in sources if re.search(r"(?<![.\w])eval\(", path.read_text(encoding="utf-8"))]
    names = [".".join(("fairseq", *path.relative_to(folder).with_suffix("").parts)) for path in evaluating]
    assert "fairseq.models.wav2vec.wav2vec2" in names
    # Loaded by `apply` too: one that was imported later would have Python's own `eval`.
    assert not [name for name in names if getattr(sys.modules.get(name), "eval", None) is not compat.pickles.evaluate]


@pytest.mark.parametrize("text", ["(0.9,0.98)", "None", "[1, 2]", "True", "{'a': 1}", "1e-3", LAYERS])
def test_settings_evaluate_to_what_python_gives(text: str) -> None:
    assert compat.pickles.evaluate(text) == eval(text)


def test_a_refusal_is_one_line_on_the_terminal(tmp_path: Path) -> None:
    """Fairseq warns, logs and sets up the root logger as it is imported; a command's user sees none of that."""
    torch.save({"model": Hostile(os.system, "true")}, tmp_path / "hostile.pt")
    program = "import logging, sys; from w2v_compress import compat, InputError\n"
    program += "try: compat.load_checkpoint(sys.argv[1])\nexcept InputError as error: print(error, file=sys.stderr)\n"
    program += "print(logging.getLogger().handlers)"
    command = [sys.executable, "-c", program, str(tmp_path / "hostile.pt")]
    done = subprocess.run(command, cwd=compat.plugin.user_dir().parent, capture_output=True, text=True, check=True)
    assert done.stderr.startswith(f"{tmp_path / 'hostile.pt'}: is refused")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "[]\n"


# --- steps of the optimizer ---------------------------------------------------------------------------------------


def optimizer_of(kind: str, parameters: list[torch.nn.Parameter], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fairseq's optimizer: Adam with weight decay, in fp32 or wrapped as in training in half precision."""
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer, build_optimizer

    adam = {"_name": "adam", "lr": [0.1], "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1}
    adam |= {"use_old_adam": True, "fp16_adam_stats": False, "tpu": False}
    cfg = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(cfg, False)
    cfg.optimizer = adam
    if kind == "fp32":
        return build_optimizer(cfg.optimizer, parameters)
    cfg.common.fp16, cfg.common.bf16 = "fp16" in kind, "bf16" in kind
    cfg.common.fp16_init_scale = 1
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of a CPU
    wrapper = MemoryEfficientFP16Optimizer if "memory" in kind else FP16Optimizer
    return wrapper.build_optimizer(cfg, parameters)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16", "bf16, memory efficient"])
def test_a_step_leaves_parameters_untouched(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 joins all parameters to one vector, bf16 has a copy in fp32 of each."""
    dtype = {"fp": torch.float32, "bf": torch.bfloat16}[kind[:2]] if kind != "fp16" else torch.float16

    def values_after_two_updates(left: bool) -> list[torch.Tensor]:
        start = [torch.linspace(-1, 1, size, dtype=dtype) for size in (3, 4, 2)]
        parameters = [torch.nn.Parameter(values.clone()) for values in start]
        optimizer = optimizer_of(kind, parameters, monkeypatch)
        for update in range(2):
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            if update == 1:  # as `legacy_ddp` leaves what had no gradient on any rank
                parameters[1].grad = torch.zeros_like(parameters[1])
            optimizer._needs_sync = True
            optimizer.clip_grad_norm(0)
            if update == 1:
                before = parameters[1].detach().clone()
            with compat.optimizer.excluding_from_step(optimizer, parameters[1:2] if left and update == 1 else []):
                optimizer.step()
            optimizer.zero_grad()
        if left:
            assert torch.equal(parameters[1], before)
            assert not torch.equal(parameters[1], start[1])
        else:
            assert not torch.equal(parameters[1], before)
        return [parameter.detach() for parameter in parameters]

    left, moved = values_after_two_updates(True), values_after_two_updates(False)
    assert torch.equal(left[0], moved[0])
    assert torch.equal(left[2], moved[2])


# --- random numbers -----------------------------------------------------------------------------------------------


def masks(seed: int, **options: Any) -> np.ndarray:
    utils.set_torch_seed(seed)
    return compute_mask_indices((4, 100), None, 0.5, 10, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"mask_type": "uniform"}, {"mask_type": "normal"}, {"no_overlap": True, "min_space": 1}, {"num_mask_ver": 1}],
    ids=str,
)
def test_masks_are_a_function_of_the_seed(options: dict[str, Any]) -> None:
    assert np.array_equal(masks(1, **options), masks(1, **options))
    assert not np.array_equal(masks(1, **options), masks(2, **options))
    assert 0.1 < masks(1, **options).mean() < 0.9


def test_processes_mask_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    first = masks(1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert not np.array_equal(masks(1), first)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    tmp_path: Path, pretraining: tuple[str, ...], train: Callable[..., None]
) -> None:
    def run(name: str, *updates: int, seed: int = 3) -> dict[str, torch.Tensor]:
        for update in updates:
            settings = [f"optimization.max_update={update}", f"checkpoint.save_dir={tmp_path / name}"]
            train(*pretraining, *settings, f"common.seed={seed}")
            np.random.random(update)  # stock draws dropped layers from this global state
        return compat.load_checkpoint(tmp_path / name / "checkpoint_last.pt")["model"]

    whole, resumed, other = run("whole", 4), run("resumed", 2, 4), run("other", 4, seed=4)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_cropping_does_not_index_with_a_list() -> None:
    dataset = RawAudioDataset(16000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        crop = dataset.crop_to_max_size(torch.arange(20).view(2, 10), 4, dim=1)
    assert crop.shape == (2, 4)
    assert torch.equal(crop[0], torch.arange(4) + crop[0, 0])
    assert dataset.crop_to_max_size(torch.arange(3), 4).tolist() == [0, 1, 2]
    assert {int(dataset.crop_to_max_size(torch.arange(5), 4)[0]) for _ in range(50)} == {0, 1}


# --- two processes on CPU -----------------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[Any]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def test_collectives_on_cpu(process_group: Any) -> None:
    for size in (64, 1024, 16384):  # growing buffers
        assert distributed_utils.all_gather_list({"loss": 1.5}, process_group, max_size=size) == [{"loss": 1.5}]


def test_data_parallel_on_cpu(process_group: Any) -> None:
    settings = SimpleNamespace(
        tpu=False, ddp_backend="pytorch_ddp", device_id=0, broadcast_buffers=False, bucket_cap_mb=25,
        find_unused_parameters=False, gradient_as_bucket_view=False, ddp_comm_hook="none", heartbeat_timeout=-1,
    )  # fmt: skip
    wrapped = DistributedFairseqModel(settings, torch.nn.Linear(2, 1), process_group, torch.device("cpu"))
    wrapped(torch.ones(3, 2)).sum().backward()
    assert wrapped.weight.grad.tolist() == [[3.0, 3.0]]


@pytest.mark.slow
def test_two_processes_train_on_cpu(
    tmp_path: Path,
    pretraining: tuple[str, ...],
    train: Callable[..., None],
    two_processes: Callable[..., str],
) -> None:
    """The recipe of the documentation, through `common.user_dir`, resuming: the state is sent to the second process."""
    settings = [*pretraining, f"checkpoint.save_dir={tmp_path}"]
    train(*settings, "optimization.max_update=1")
    log = two_processes(
        ["-m", "fairseq_cli.hydra_train"],
        *settings,
        *[f"hydra.run.dir={tmp_path}", "optimization.max_update=3", f"common.user_dir={compat.plugin.user_dir()}"],
        "checkpoint.reset_dataloader=true",
    )
    assert "(epoch 1 @ 1 updates)" in log
    assert '"nsentences": "4"' in log  # two from each process
    state = compat.load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert state["optimizer_history"][-1]["num_updates"] == 3
