"""The verbs `export` and `import`, which convert models from and to the files of other programs."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..evaluation.report import megabytes
from .console import print_message
from .options import PointOption, StrictOption, seed_option

if TYPE_CHECKING:
    from ..interop.source import Exported


def export(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[SOURCE...] OUT",
            help="Input and output. By default a fairseq checkpoint and OUT.safetensors; with --format, a model file "
            "and OUT.onnx, OUT.xml (OpenVINO) or a folder (transformers).",
        ),
    ],
    form: Annotated[
        Literal["model", "onnx", "openvino", "transformers"],
        typer.Option("--format", help="Output format. All but `model` are converted from a model file and verified."),
    ] = "model",
    dictionary: Annotated[
        Path | None,
        typer.Option("--dict", metavar="FILE", help="model: fairseq's dictionary dict.ltr.txt, or its folder."),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="model: export random weights of this architecture; OUT.pt is written as a stock fairseq checkpoint.",
        ),
    ] = None,
    seed: Annotated[int, seed_option("the weights of --architecture")] = 0,
    average: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="model: average the weights of N checkpoints: N sources, the newest of a folder, or a numbered "
            "checkpoint and those before it.",
        ),
    ] = None,
    ema: Annotated[
        bool,
        typer.Option("--ema", help="model: export the moving average of the weights, stored with ema.store_ema=true."),
    ] = False,
    point: PointOption = None,
    strict: StrictOption = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="onnx: quantize matrix products, with the scales of MODEL if it is calibrated, else dynamically.",
        ),
    ] = False,
    reduce_range: Annotated[
        bool,
        typer.Option(
            "--reduce-range",
            help="onnx with --int8: weights of 7 bits, for x86 processors without VNNI, where products of 8 overflow.",
        ),
    ] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="onnx: version of the operator set, 18 to 22.")] = None,
) -> None:
    """Convert a fairseq CTC checkpoint to a model file, or a model file to another format.

    Reads checkpoints of this package and of stock wav2vec_ctc. The other formats run at one compression point.
    """
    onnx_options = {"--int8": int8, "--reduce-range": reduce_range, "--opset": opset}
    if form == "model":
        _reject({"--point": point, "--strict": strict, **onnx_options}, "requires another --format")
        if architecture:
            checkpoint_options = {"--dict": dictionary, "--average": average, "--ema": ema}
            _reject(checkpoint_options, "cannot be combined with --architecture")
            _export_random(paths, architecture, seed)
        else:
            _export_checkpoint(paths, dictionary, average, ema)
        return
    options = {"--dict": dictionary, "--architecture": architecture, "--average": average, "--ema": ema}
    _reject(options, f"cannot be combined with --format {form}")
    if form != "onnx":
        _reject(onnx_options, "requires --format onnx")
    if not int8:
        _reject({"--reduce-range": reduce_range}, "requires --int8")
    if len(paths) != 2:
        raise typer.BadParameter("give a model file and OUT", param_hint="paths")
    model, out = paths
    with _printing_point_warnings():
        if form == "onnx":
            from ..interop.onnx import DEFAULT_OPSET, export_onnx

            exported = export_onnx(
                model,
                out,
                point=point,
                strict=strict,
                int8=int8,
                reduce_range=reduce_range,
                opset=DEFAULT_OPSET if opset is None else opset,
            )
        elif form == "openvino":
            from ..interop.openvino import export_openvino

            exported = export_openvino(model, out, point=point, strict=strict)
        else:
            from ..interop.transformers_export import export_transformers

            exported = export_transformers(model, out, point=point, strict=strict)
    _print_exported(out, exported)


def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a Wav2Vec2ForCTC saved by transformers.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Path of the model file to write.")],
) -> None:
    """Convert a model of Hugging Face transformers (safetensors) to a model file."""
    from ..interop.transformers_import import import_transformers

    header = import_transformers(folder, out).header
    print(f"{out}: {megabytes(out.stat().st_size)}, {len(header.units.symbols)} units from {folder / 'vocab.json'}")


def _export_random(paths: list[Path], architecture: str, seed: int) -> None:
    """Export random weights of an architecture."""
    from ..interop.fairseq_checkpoint import export_random

    if len(paths) != 1:
        raise typer.BadParameter("give OUT alone with --architecture", param_hint="paths")
    export_random(architecture, paths[0], seed)
    print(f"{paths[0]}: {megabytes(paths[0].stat().st_size)}, units from fairseq's LibriSpeech letters")


def _export_checkpoint(paths: list[Path], dictionary: Path | None, average: int | None, ema: bool) -> None:
    """Export a checkpoint of fairseq, or the average of several, to a model file."""
    from ..interop.averaging import last_checkpoints
    from ..interop.fairseq_checkpoint import export_checkpoint

    *sources, out = paths
    if len(sources) != 1 and len(sources) != average:
        raise typer.BadParameter(
            "give CHECKPOINT.pt and OUT; N checkpoints and OUT with --average N; or OUT alone with --architecture",
            param_hint="paths",
        )
    if average and len(sources) == 1:
        sources = last_checkpoints(sources[0], average)
    units = export_checkpoint(sources[0], out, dictionary, others=sources[1:], ema=ema).units_source
    averaged = f"mean of {', '.join(source.name for source in sources)}; " if average else ""
    print(f"{out}: {megabytes(out.stat().st_size)}, {averaged}units from {units}")


def _reject(options: Mapping[str, object], reason: str) -> None:
    """Raise BadParameter with `reason` if one of the options is given."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(reason, param_hint=name)


@contextmanager
def _printing_point_warnings() -> Iterator[None]:
    """Print warnings about a point that the model was not trained for; hide the warnings of the exporters."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message="the model was not trained for")
        yield
    for warning in caught:
        print_message(str(warning.message))


def _print_exported(out: Path, exported: "Exported") -> None:
    """Print the size of the exported file and its output error."""
    print(
        f"{out}: {megabytes(exported.bytes)}, point {exported.source.point}; logits differ from the model's by up to "
        f"{exported.difference.largest:.1e} in fp32"
    )
    if exported.source.int8 is not None and not (exported.int8 is not None and exported.source.calibrated is not None):
        print("the model is int8: its weights were dequantized to fp32, and activations are not quantized")
    if exported.int8 is not None:
        print(
            f"int8: logits differ by up to {exported.int8.largest:.2g}, and the best unit differs in "
            f"{100 * exported.int8.mismatch_rate:.2f}% of frames (noise input)"
        )
