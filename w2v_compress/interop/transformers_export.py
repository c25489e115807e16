"""Folders of Hugging Face transformers, `Wav2Vec2ForCTC` with its processor: the extra `[transformers]`."""

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
from .parity import Batch, Difference, batches, difference, normalized, valid_rows
from .source import Exported, Source, quietly

UPSAMPLING = "w2v_model.encoder.upsampling."


def export_transformers(model: Path, out: Path, *, point: Point | None = None, strict: bool = False) -> Exported:
    """Write the model file `model` as the new folder `out`, once transformers gives the logits that our network gives,
    and its processor our text.

    `point` and `strict` are those of `Recognizer.checked_point`. Raises `InputError`, and leaves no folder, when
    transformers has no such network or units, or when logits differ by more than `parity.TOLERANCE`.
    """
    transformers = load_package()
    source = Source.read(model, point, strict)
    header = source.model.header
    if source.point != UNCOMPRESSED:
        raise InputError(
            f"{model}: Wav2Vec2ForCTC has no compression points, and SEWForCTC drops the last frames, which ours does "
            f"not; the point must be {UNCOMPRESSED}, and is {source.point}"
        )
    if header.units.kind != "letter":
        raise InputError(f"{model}: its units are {header.units.kind}; the tokenizer of Wav2Vec2ForCTC joins letters")
    with creating_folder(out) as folder:
        write_folder(source.model, folder)
        measured, logits = _measure(transformers, source.model, folder)
        measured.check(out)
        _check_text(transformers, header.units, folder, logits, out)
        names = sorted(file.name for file in folder.iterdir())
    return Exported(source, tuple(out / name for name in names), measured)


def load_package() -> Any:
    """The package transformers, with the classes that are used here. Raises `InputError` when it is missing."""
    with hiding_broken_torchaudio(), quietly():
        transformers = require("--format transformers", "transformers", "transformers")
        from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor  # noqa: F401 - imported on demand, which is now

        transformers.utils.logging.disable_progress_bar()
    return transformers


def write_folder(model: ModelFile, folder: Path) -> None:
    """The files of `Wav2Vec2ForCTC` and `Wav2Vec2Processor` for a floating-point model of letters, at (1, 1, 1)."""
    architecture = model.header.architecture
    state = {
        transformers_format.tensor_name(name): tensor.float().contiguous().clone()
        for name, tensor in model.state.items()
        if not name.startswith(UPSAMPLING)
    }
    if f"{transformers_format.IDENTITY}weight" not in state:
        channels = architecture.encoder_embed_dim
        state[f"{transformers_format.IDENTITY}weight"] = torch.eye(channels)
        state[f"{transformers_format.IDENTITY}bias"] = torch.zeros(channels)
    try:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # how safetensors reports a full disk
        raise InputError(f"model.safetensors: cannot be written: {error}") from None
    for name, values in _processor_files(model.header.units, model.header.normalize, masked(model)).items():
        write_json(folder / name, values)
    write_json(folder / "config.json", transformers_format.configuration(architecture))


def masked(model: ModelFile) -> bool:
    """Whether transformers gives a batch an attention mask. Models with a group norm it pads with plain zeros, which
    they then hear.
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
    """How far transformers is from our network, and its logits (frames, units) of each utterance.

    Both get the same normalized audio. Of a padded batch of a model with a group norm, both hear the padding.
    """
    network = model.build()
    with quietly():
        other = transformers.Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True).eval()
    expected: list[Tensor] = []
    actual: list[Tensor] = []
    for raw in batches(model.header.architecture):
        batch = normalized(raw) if model.header.normalize else raw
        lengths = batch.lengths if batch.mixed and masked(model) else None
        logits, frames = network(batch.audio, lengths)
        expected += valid_rows(logits, frames)
        actual += valid_rows(other(batch.audio, attention_mask=_mask(batch, lengths)).logits, frames)
    return difference(expected, actual), actual


def _mask(batch: Batch, lengths: Tensor | None) -> Tensor | None:
    """(batch, samples) of 0 and 1."""
    return None if lengths is None else (torch.arange(batch.audio.shape[1]) < lengths.unsqueeze(1)).long()


def _check_text(transformers: Any, units: Units, folder: Path, logits: list[Tensor], out: Path) -> None:
    """Raises `InputError` unless the folder's processor and our units read the same text from `logits`.

    Without `<s>`, `</s>` and `<unk>`, which CTC never learns to write: there they are spelled out, here left out.
    """
    with quietly():
        processor = transformers.Wav2Vec2Processor.from_pretrained(folder, local_files_only=True)
    unlearned = torch.arange(1, len(transformers_format.SPECIALS))
    for scores in logits:
        best = scores.index_fill(-1, unlearned, -torch.inf).argmax(-1)
        theirs = " ".join(processor.decode(best).split())
        ours = units.decode(best.unique_consecutive().tolist())
        if theirs != ours:
            raise InputError(f"{out}: not written: its processor reads {theirs[:60]!r} where ours reads {ours[:60]!r}")
