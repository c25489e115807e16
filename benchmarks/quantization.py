"""Speed and error of int8: matrix products by backend, and the complete network by scheme; docs/quantization.md.

    python benchmarks/quantization.py --json benchmarks/results/quantization.json --threads 1

Weights and audio are random, on which times do not depend. Runs are interleaved in one process. Prints the results, and
writes times, file sizes and errors with --json.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from w2v_compress.data.audio import SAMPLE_RATE
from w2v_compress.evaluation.machine import describe_machine, interleaved_latency
from w2v_compress.files import write_json
from w2v_compress.interop.fairseq_checkpoint import export_random
from w2v_compress.model_file.storage import quantize_file
from w2v_compress.nn.acoustic_model import AcousticModel
from w2v_compress.nn.architecture import named_architecture
from w2v_compress.nn.convolution import WeightNormConvolution
from w2v_compress.nn.device import has_int8_units
from w2v_compress.quantization import int8
from w2v_compress.runtime.engines.torch_engine import TorchEngine

SHAPES = (
    (500, 1024, 1024),
    (500, 1024, 3072),
    (500, 1024, 4096),
    (500, 4096, 1024),
    (16000, 1536, 512),  # the second convolution for 10 s: windows of 3 frames of 512
    (8000, 1536, 512),
    (1000, 1024, 512),  # the last but one convolution: windows of 2 frames
)


def torchao_linear(linear: torch.nn.Linear) -> Callable[[Tensor], Tensor] | None:
    """Return a copy of `linear` in torchao's dynamic int8, or None if torchao is not installed."""
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError:
        return None
    module = torch.nn.Sequential(torch.nn.Linear(linear.in_features, linear.out_features))
    module[0].load_state_dict(linear.state_dict())
    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module


def onednn_linear(linear: torch.nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    """Return oneDNN's prepacked int8 product, which has one scale and zero point for the complete input."""
    integers, scale = int8.quantize_weight(linear.weight)
    packed = torch.ops.onednn.qlinear_prepack(integers, [rows, linear.in_features])
    zeros = torch.zeros(len(scale), dtype=torch.int32)

    def product(x: Tensor) -> Tensor:
        steps, step, zero = int8.quantize_activations(x, (0, 1))
        steps = steps.view(torch.uint8).bitwise_xor_(128)
        return torch.ops.onednn.qlinear_pointwise(
            steps, step.item(), int(zero.item()) + 128, packed, scale, zeros, linear.bias, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip

    return product


def measure_product(rows: int, inputs: int, outputs: int, repeats: int) -> dict[str, Any]:
    """Measure milliseconds and error of each backend, including the quantization of the activations."""
    linear = torch.nn.Linear(inputs, outputs).requires_grad_(False)
    narrow = torch.nn.Linear(inputs, outputs).requires_grad_(False)
    narrow.load_state_dict(linear.state_dict())
    narrow.bfloat16()
    integers, scale = int8.quantize_weight(linear.weight)
    own = int8.Int8Linear(linear)
    own.load_state_dict({"weight": integers, "weight_scale": scale, "bias": linear.bias})
    x = torch.randn(rows, inputs)
    x_bfloat16, x_int8 = x.bfloat16(), int8.quantize_activations(x)[0]
    runs: dict[str, Callable[[], Tensor]] = {
        "fp32": lambda: linear(x),
        "bf16": lambda: narrow(x_bfloat16),
        "product alone (torch._int_mm)": lambda: torch._int_mm(x_int8, integers.t()),
        "own": lambda: own(x),
        "own, bf16 in and out": lambda: own(x_bfloat16),
    }
    prepacked = onednn_linear(linear, rows)
    runs["onednn qlinear, one scale"] = lambda: prepacked(x)
    torchao = torchao_linear(linear)
    if torchao is not None:
        runs["torchao"] = lambda: torchao(x)
    exact = linear(x)
    deviation = (exact - linear.bias).norm()
    errors = {
        name: float((run().float() - exact).norm() / deviation) for name, run in runs.items() if "alone" not in name
    }
    return {
        "rows": rows,
        "in": inputs,
        "out": outputs,
        "milliseconds": interleaved_latency(runs, repeats),
        "relative_error": errors,
    }


def measure_positional(frames: int, repeats: int) -> dict[str, Any]:
    """Measure the positional convolution of LARGE: as a grouped convolution, and as int8 products of each group."""
    convolution = WeightNormConvolution(1024, 128, 16).requires_grad_(False)
    weight = convolution.effective_weight()
    integers, scale = int8.quantize_weight(weight)
    own = int8.Int8PositionalConvolution(convolution)
    own.load_state_dict({"weight": integers, "weight_scale": scale, "bias": convolution.bias})
    x = torch.randn(1, frames, 1024)
    narrow = x.transpose(1, 2).bfloat16(), weight.bfloat16(), convolution.bias.bfloat16()
    runs: dict[str, Callable[[], Tensor]] = {
        "fp32": lambda: convolution(x),
        "bf16": lambda: F.conv1d(*narrow, padding=64, groups=16),
        "own": lambda: own(x),
    }
    exact = convolution(x)
    error = float((own(x) - exact).norm() / exact.norm())
    return {"frames": frames, "milliseconds": interleaved_latency(runs, repeats), "relative_error": {"own": error}}


def measure_model(architecture: str, seconds: float, repeats: int, seed: int) -> dict[str, Any]:
    """Measure the complete network: milliseconds at batch size 1, file sizes and the relative error of the logits."""
    audio = torch.randn(1, round(seconds * SAMPLE_RATE))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.safetensors" for name in ("fp32", "paper", "full")}
        export_random(architecture, paths["fp32"], seed)
        for scheme in ("paper", "full"):
            quantize_file(paths["fp32"], paths[scheme], scheme)
        sizes = {name: path.stat().st_size for name, path in paths.items()}
        models: dict[str, AcousticModel] = {
            "fp32": TorchEngine.load(paths["fp32"], "fp32").model,
            "bf16": TorchEngine.load(paths["fp32"], "bf16").model,
            "int8 paper": TorchEngine.load(paths["paper"], "int8").model,
            "int8 full": TorchEngine.load(paths["full"], "int8").model,
        }
    inputs = {name: audio.to(next(model.parameters()).dtype) for name, model in models.items()}
    logits = {name: model(inputs[name])[0].float() for name, model in models.items()}
    logits = {name: values - values.mean(-1, keepdim=True) for name, values in logits.items()}
    errors = {name: float((values - logits["fp32"]).norm() / logits["fp32"].norm()) for name, values in logits.items()}
    runs = {name: lambda name=name: models[name](inputs[name]) for name in models}
    milliseconds = interleaved_latency(runs, repeats)
    return {
        "architecture": architecture,
        "layers": named_architecture(architecture).encoder_layers,
        "seconds": seconds,
        "bytes": sizes,
        "times_smaller": {name: sizes["fp32"] / size for name, size in sizes.items()},
        "milliseconds": milliseconds,
        "times_faster_than_fp32": {name: milliseconds["fp32"] / value for name, value in milliseconds.items()},
        "relative_logit_error": errors,
    }


@torch.inference_mode()
def main() -> None:
    """Run the benchmarks, print the results and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results to this JSON file")
    parser.add_argument("--architecture", default="large")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of audio")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "int8_units": has_int8_units(),
        "seed": arguments.seed,
        "repeats": arguments.repeats,
    }
    results["model"] = measure_model(arguments.architecture, arguments.seconds, arguments.repeats, arguments.seed)
    print(results["model"])
    results["positional"] = measure_positional(500, arguments.repeats)
    results["products"] = [measure_product(*shape, arguments.repeats) for shape in SHAPES]
    for row in (results["positional"], *results["products"]):
        print(row)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
