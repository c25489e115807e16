"""Export to a folder of Hugging Face transformers, `Wav2Vec2ForCTC` with its processor. Needs `[transformers]`."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..data.units import Units
from ..errors import InputError
from ..extras import hiding_broken_torchaudio, require
from ..files import creating_folder, write_json
from ..model_file.points import Point
from ..model_file.storage import ModelFile
from ..nn.compression import UNCOMPRESSED
from . import transformers_format
from .parity import Batch, Difference, compare_logits, normalize_batch, parity_batches, split_valid
from .source import Exported, Source, without_warnings

UPSAMPLING = "w2v_model.encoder.upsampling."


def export_transformers(model: Path, out: Path, *, point: Point | None = None, strict: bool = False) -> Exported:
    """Write the model file `model` as the new folder `out`, after comparing logits and text in transformers with ours.

    `point` and `strict` are those of `resolve_point`. Raises `InputError` if `Wav2Vec2ForCTC` has no such network or
    units, or if the logits differ by more than `parity.TOLERANCE`. No folder is then left.
    """
    transformers = load_package()
    source = Source.read(model, point, strict)
    header = source.model.header
    if source.point != UNCOMPRESSED:
        raise InputError(
            f"{model}: the point is {source.point}; it must be {UNCOMPRESSED}, because Wav2Vec2ForCTC has no "
            "compression points, and SEWForCTC, unlike our models, drops the last frames"
        )
    if header.units.kind != "letter":
        raise InputError(
            f"{model}: its units are {header.units.kind}; they must be letters, which Wav2Vec2CTCTokenizer joins"
        )
    with creating_folder(out) as folder:
        write_folder(source.model, folder)
        measured, logits = _measure(transformers, source.model, folder)
        measured.check(out)
        _check_text(transformers, header.units, folder, logits, out)
        names = sorted(file.name for file in folder.iterdir())
    return Exported(source, tuple(out / name for name in names), measured)


def load_package() -> Any:
    """Import transformers and the classes that are used here. Raises `InputError` if it is not installed."""
    with hiding_broken_torchaudio(), without_warnings():
        transformers = require("--format transformers", "transformers", "transformers")
        from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor  # noqa: F401 - transformers imports them lazily

        transformers.utils.logging.disable_progress_bar()
    return transformers


def write_folder(model: ModelFile, folder: Path) -> None:
    """Write the files of `Wav2Vec2ForCTC` and `Wav2Vec2Processor` to `folder`.

    The model must be in floating point, with letters as units. The network is that of the point (1, 1, 1).
    """
    architecture = model.header.architecture
    state = {
        transformers_format.tensor_name(name): tensor.float().contiguous().clone()
        for name, tensor in model.state.items()
        if not name.startswith(UPSAMPLING)
    }
    if f"{transformers_format.PROJECTION}weight" not in state:
        channels = architecture.encoder_embed_dim
        state[f"{transformers_format.PROJECTION}weight"] = torch.eye(channels)
        state[f"{transformers_format.PROJECTION}bias"] = torch.zeros(channels)
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors reports a full disk this way
        raise InputError(f"model.safetensors: cannot be written: {error}") from None
    files = _processor_files(model.header.units, model.header.normalize, uses_attention_mask(model))
    for name, values in files.items():
        write_json(folder / name, values)
    write_json(folder / "config.json", transformers_format.to_config(architecture))


def uses_attention_mask(model: ModelFile) -> bool:
    """Return whether transformers passes an attention mask with a batch.

    It passes none to models with a group norm, which treat padding as audio.
    """
    return model.header.architecture.extractor_mode == "layer_norm"


def _processor_files(units: Units, normalize: bool, attention_mask: bool) -> dict[str, dict[str, Any]]:
    symbols = (*transformers_format.SPECIALS, *units.symbols[len(transformers_format.SPECIALS) :])
    tokens = dict(zip(transformers_format.ROLES, transformers_format.SPECIALS, strict=True))
    return {
        "vocab.json": {symbol: number for number, symbol in enumerate(symbols)},
        "special_tokens_map.json": tokens,
        "tokenizer_config.json": {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "word_delimiter_token": "|",
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
            "clean_up_tokenization_spaces": False,
            **tokens,
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "processor_class": "Wav2Vec2Processor",
            "feature_size": 1,
            "sampling_rate": 16_000,
            "padding_side": "right",
            "padding_value": 0.0,
            "do_normalize": normalize,
            "return_attention_mask": attention_mask,
        },
    }


@torch.inference_mode()
def _measure(transformers: Any, model: ModelFile, folder: Path) -> tuple[Difference, list[Tensor]]:
    """Return the difference of transformers from our network, and its logits (frames, units) for each utterance.

    Both get the same normalized audio. In a padded batch for a model with a group norm, both treat padding as audio.
    """
    network = model.build()
    with without_warnings():
        other = transformers.Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True).eval()
    expected: list[Tensor] = []
    actual: list[Tensor] = []
    for raw in parity_batches(model.header.architecture):
        batch = normalize_batch(raw) if model.header.normalize else raw
        lengths = batch.lengths if batch.has_padding and uses_attention_mask(model) else None
        logits, frames = network(batch.audio, lengths)
        expected += split_valid(logits, frames)
        actual += split_valid(other(batch.audio, attention_mask=_attention_mask(batch, lengths)).logits, frames)
    return compare_logits(expected, actual), actual


def _attention_mask(batch: Batch, lengths: Tensor | None) -> Tensor | None:
    """Return a mask (batch, samples) with 1 for valid samples and 0 for padding, or None without `lengths`."""
    return None if lengths is None else (torch.arange(batch.audio.shape[1]) < lengths.unsqueeze(1)).long()


def _check_text(transformers: Any, units: Units, folder: Path, logits: list[Tensor], out: Path) -> None:
    """Raise `InputError` unless the folder's processor and our units decode `logits` to the same text.

    `<s>`, `</s>` and `<unk>`, which CTC never learns to output, are excluded: transformers spells them out, and our
    units drop them.
    """
    with without_warnings():
        processor = transformers.Wav2Vec2Processor.from_pretrained(folder, local_files_only=True)
    unlearned = torch.arange(1, len(transformers_format.SPECIALS))
    for scores in logits:
        best = scores.index_fill(-1, unlearned, -torch.inf).argmax(-1)
        theirs = " ".join(processor.decode(best).split())
        ours = units.decode(best.unique_consecutive().tolist())
        if theirs != ours:
            raise InputError(f"{out}: not written: its processor decodes {theirs[:60]!r}, and our units {ours[:60]!r}")
