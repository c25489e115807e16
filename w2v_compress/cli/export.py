"""The commands that turn recognizers from and to files of other programs: export and import."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..evaluation.report import megabytes
from .console import say
from .options import PointOption, StrictOption

if TYPE_CHECKING:
    from ..interop.source import Exported


def export(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[SOURCE...] OUT",
            help="A fairseq checkpoint and a model file; with --format a model file and OUT.onnx, OUT.xml or a folder.",
        ),
    ],
    form: Annotated[
        Literal["model", "onnx", "openvino", "transformers"],
        typer.Option("--format", help="model: one model file; the others are made of one, and checked against it."),
    ] = "model",
    dictionary: Annotated[
        Path | None, typer.Option("--dict", metavar="FILE", help="model: fairseq's dict.ltr.txt, or its folder.")
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="model: random weights of this architecture; as OUT.pt, in stock fairseq's form."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
    average: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="model: average the weights of N checkpoints: SOURCE, one that fairseq numbered, and those before it; "
            "the newest in the folder SOURCE; or N that are named.",
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="model: the moving average of the weights, kept with ema.store_ema=true.")
    ] = False,
    point: PointOption = None,
    strict: StrictOption = False,
    int8: Annotated[bool, typer.Option("--int8", help="onnx: quantize the matrix products dynamically.")] = False,
    opset: Annotated[int | None, typer.Option(metavar="N", help="onnx: version of the operators, 18 to 22.")] = None,
) -> None:
    """Turn a fairseq CTC checkpoint (ours, or stock wav2vec_ctc) into one self-describing model file, or a model file
    into what ONNX Runtime, OpenVINO or transformers run, at one compression point.
    """
    if form == "model":
        _refuse({"--point": point, "--strict": strict, "--int8": int8, "--opset": opset}, "needs another --format")
        if architecture:
            _refuse({"--dict": dictionary, "--average": average, "--ema": ema}, "does not go with --architecture")
            _export_random(paths, architecture, seed)
        else:
            _export_checkpoint(paths, dictionary, average, ema)
        return
    options = {"--dict": dictionary, "--architecture": architecture, "--average": average, "--ema": ema}
    _refuse(options, f"does not go with --format {form}")
    if form != "onnx":
        _refuse({"--int8": int8, "--opset": opset}, "needs --format onnx")
    if len(paths) != 2:
        raise typer.BadParameter("give a model file and OUT", param_hint="paths")
    model, out = paths
    with _said_points():
        if form == "onnx":
            from ..interop.onnx import DEFAULT_OPSET, export_onnx

            exported = export_onnx(
                model, out, point=point, strict=strict, int8=int8, opset=DEFAULT_OPSET if opset is None else opset
            )
        elif form == "openvino":
            from ..interop.openvino import export_openvino

            exported = export_openvino(model, out, point=point, strict=strict)
        else:
            from ..interop.transformers_export import export_transformers

            exported = export_transformers(model, out, point=point, strict=strict)
    _show(out, exported)


def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A Wav2Vec2ForCTC as transformers saves it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The model file to write.")],
) -> None:
    """Turn a folder of Hugging Face transformers (safetensors) into a model file."""
    from ..interop.transformers_import import import_transformers

    header = import_transformers(folder, out).header
    print(f"{out}: {megabytes(out.stat().st_size)}, {len(header.units.symbols)} units from {folder / 'vocab.json'}")


def _export_random(paths: list[Path], architecture: str, seed: int) -> None:
    from ..interop.fairseq_checkpoint import export_random

    if len(paths) != 1:
        raise typer.BadParameter("give OUT alone with --architecture", param_hint="paths")
    export_random(architecture, paths[0], seed)
    print(f"{paths[0]}: {megabytes(paths[0].stat().st_size)}, units from fairseq's LibriSpeech letters")


def _export_checkpoint(paths: list[Path], dictionary: Path | None, average: int | None, ema: bool) -> None:
    from ..interop.averaging import numbered_before
    from ..interop.fairseq_checkpoint import export_checkpoint

    *sources, out = paths
    if len(sources) != 1 and len(sources) != average:
        raise typer.BadParameter(
            "give CHECKPOINT.pt and OUT, several checkpoints and OUT with --average and their number, or OUT with "
            "--architecture",
            param_hint="paths",
        )
    if average and len(sources) == 1:
        sources = numbered_before(sources[0], average)
    units = export_checkpoint(sources[0], out, dictionary, others=sources[1:], ema=ema).units_source
    averaged = f"mean of {', '.join(source.name for source in sources)}; " if average else ""
    print(f"{out}: {megabytes(out.stat().st_size)}, {averaged}units from {units}")


def _refuse(options: Mapping[str, object], reason: str) -> None:
    """Wrong usage when one of these is given."""
    for name, value in options.items():
        if value:
            raise typer.BadParameter(reason, param_hint=name)


@contextmanager
def _said_points() -> Iterator[None]:
    """Within, the warning of a point that the model was not trained for is a line on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", message="the model was not trained for")
        yield
    for warning in caught:
        say(str(warning.message))


def _show(out: Path, exported: "Exported") -> None:
    print(
        f"{out}: {megabytes(exported.bytes)}, point {exported.source.point}; logits differ from the network's by up to "
        f"{exported.difference.largest:.1e} in fp32"
    )
    if exported.source.widened:
        print("the model is int8: its weights were widened to fp32, and activations are not quantized")
    if exported.int8 is not None:
        print(
            f"int8: logits differ by up to {exported.int8.largest:.2g}, and the best unit in "
            f"{100 * exported.int8.labels:.2f}% of the frames of noise"
        )
