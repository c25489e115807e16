"""Folders of Hugging Face transformers to model files: `Wav2Vec2ForCTC` in safetensors; needs no transformers.

Nothing in a folder is run: its files are JSON and numbers.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..data.audio import SAMPLE_RATE
from ..data.units import SPECIALS, Units
from ..errors import InputError
from ..model_file.header import Header
from ..model_file.storage import ModelFile, write_model
from ..nn.acoustic_model import AcousticModel
from ..nn.architecture import Architecture
from ..nn.meta import without_memory
from . import transformers_format

WEIGHTS = "model.safetensors"
NEVER = -1e4
"""The logit of a unit that the folder does not have: less than any other, and a number in fp16 too."""


@dataclass(frozen=True)
class _Vocabulary:
    """The units of a folder in our order."""

    units: Units
    classes: list[int | None]
    """Which row of its CTC head each one is; None where it has none."""


def import_transformers(folder: Path, out: Path) -> ModelFile:
    """Write the `Wav2Vec2ForCTC` in `folder` as the model file `out`; errors are those of `read_transformers`."""
    model = read_transformers(folder)
    write_model(out, model)
    return model


def read_transformers(folder: Path) -> ModelFile:
    """The recognizer in a folder of transformers: config.json, model.safetensors, vocab.json, the tokenizer's and the
    feature extractor's configuration.

    Units are put in fairseq's order, blank first; those of its first four that the folder lacks get the logit `NEVER`.
    Raises `InputError` that names the file and what is missing or what our network does not have.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    tensors = _read_tensors(folder)
    config_file = folder / "config.json"
    config = _read_json(config_file)
    head = tensors.get("lm_head.bias")
    if head is None or head.ndim != 1:
        raise InputError(f"{folder / WEIGHTS}: `lm_head.bias`, the CTC head, is missing: this model was not fine-tuned")
    vocabulary, normalize = _read_vocabulary(folder, len(head)), _read_normalize(folder)
    try:
        architecture = transformers_format.architecture_of(config, len(vocabulary.units.symbols))
    except InputError as error:
        raise InputError(f"{config_file}: {error}") from None
    try:
        state = _state(architecture, tensors, vocabulary.classes)
        return ModelFile(Header(architecture=architecture, units=vocabulary.units, normalize=normalize), state)
    except InputError as error:
        raise InputError(f"{folder / WEIGHTS}: {error}") from None


def _state(architecture: Architecture, tensors: dict[str, Tensor], classes: list[int | None]) -> dict[str, Tensor]:
    """Our state dict; takes the tensors out of `tensors`, of which none may be left."""
    if architecture.conv_layers[-1][0] == architecture.encoder_embed_dim:
        _drop_identity(tensors)
    if "wav2vec2.encoder.layer_norm.bias" in tensors:  # not trained, and not saved, where nothing was masked
        tensors.setdefault("wav2vec2.masked_spec_embed", torch.zeros_like(tensors["wav2vec2.encoder.layer_norm.bias"]))
    state = {}
    for name in _tensor_names(architecture, len(tensors)):
        theirs = transformers_format.tensor_name(name)
        if theirs not in tensors:
            raise InputError(f"the tensor `{theirs}` is missing")
        state[name] = tensors.pop(theirs)
    if tensors:
        raise InputError(f"the tensor `{min(tensors)}` is unknown")
    for name, absent in (("proj.weight", 0.0), ("proj.bias", NEVER)):
        rows = state[name]
        state[name] = torch.stack([torch.full_like(rows[0], absent) if row is None else rows[row] for row in classes])
    return state


def _tensor_names(architecture: Architecture, tensors: int) -> list[str]:
    """Of the network, once it is sure that a file of so many tensors cannot make us build many more."""
    if max(architecture.encoder_layers, len(architecture.conv_layers)) > tensors:
        raise InputError(f"there are {tensors} tensors, too few for the layers in config.json")
    try:
        with without_memory():
            return list(AcousticModel(architecture).state_dict())
    except (RuntimeError, TypeError, OverflowError, MemoryError):
        raise InputError("the sizes in config.json are impossible") from None


def _drop_identity(tensors: dict[str, Tensor]) -> None:
    """Between equal widths our network, as fairseq's, has no projection: transformers' must change nothing."""
    weight, bias = (tensors.pop(f"{transformers_format.IDENTITY}{name}", None) for name in ("weight", "bias"))
    if weight is None or bias is None or not torch.equal(weight, torch.eye(len(weight)).to(weight)) or bias.any():
        raise InputError(
            f"`{transformers_format.IDENTITY}weight` projects between equal widths, which our network does not; "
            "only the identity is supported"
        )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        found = next(iter(sorted(folder.glob("pytorch_model*.bin"))), None)
        if found is not None:
            raise InputError(
                f"{found}: reading it could run code, so only {WEIGHTS} is read: convert the folder with "
                f"`python -c \"from transformers import Wav2Vec2ForCTC as M; M.from_pretrained('{folder}')"
                f".save_pretrained('{folder}')\"`"
            )
        raise InputError(f"{path}: no such file; weights in several files are not read")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {transformers_format.current_name(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file, or truncated ({error})") from None


def _read_vocabulary(folder: Path, rows: int) -> _Vocabulary:
    path, configuration = folder / "vocab.json", folder / "tokenizer_config.json"
    tokens = _read_json(path) | _read_json(folder / "added_tokens.json", optional=True)
    if any(type(number) is not int for number in tokens.values()):
        raise InputError(f"{path}: it must be an object of tokens and their numbers, of one language")
    symbols = {number: token for token, number in tokens.items()}
    missing = sorted(set(range(rows)) - symbols.keys())
    if missing:
        raise InputError(f"{path}: has no token {missing[0]}; the CTC head has {rows} units")
    settings = _read_json(folder / "special_tokens_map.json", optional=True)
    settings |= _read_json(configuration, optional=True)
    if settings.get("tokenizer_class", "Wav2Vec2CTCTokenizer") != "Wav2Vec2CTCTokenizer":
        raise InputError(
            f"{configuration}: `tokenizer_class` is {settings['tokenizer_class']!r}; it must be 'Wav2Vec2CTCTokenizer'"
        )
    classes: list[int | None] = []
    for role, usual in zip(transformers_format.ROLES, transformers_format.SPECIALS, strict=True):
        number = tokens.get(_content(settings.get(role, usual)))
        classes.append(number if number is not None and number < rows and number not in classes else None)
    if classes[0] is None:
        raise InputError(f"{path}: has no {settings.get('pad_token', '<pad>')!r}, which is the CTC blank")
    others = [number for number in range(rows) if number not in classes]
    try:
        units = Units("letter", (*SPECIALS, *map(_spelling(settings), (symbols[number] for number in others))))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _Vocabulary(units, [*classes, *others])


def _spelling(settings: dict[str, Any]) -> Callable[[str], str]:
    """How our units write a token: the end of a word is `|`, and the case is that of the text."""
    delimiter = _content(settings.get("word_delimiter_token", "|"))
    lower = settings.get("do_lower_case") is True

    def spell(token: str) -> str:
        if token == delimiter:
            return "|"
        return token.lower() if lower else token

    return spell


def _content(token: Any) -> Any:
    """A token's text, which files also have in an object with its properties."""
    return token.get("content") if isinstance(token, dict) else token


def _read_normalize(folder: Path) -> bool:
    """Of the feature extractor, which is in a file of its own or a part of the processor's."""
    path = folder / "preprocessor_config.json"
    values = _read_json(path, optional=True)
    if not values:
        values = _read_json(folder / "processor_config.json", optional=True).get("feature_extractor", {})
    if not values or not isinstance(values, dict):
        raise InputError(f"{path}: no such file, and nothing in processor_config.json stands for it")
    rate, normalize = values.get("sampling_rate", SAMPLE_RATE), values.get("do_normalize", True)
    if rate != SAMPLE_RATE:
        raise InputError(f"{path}: `sampling_rate` is {rate!r}; it must be {SAMPLE_RATE}")
    if not isinstance(normalize, bool):
        raise InputError(f"{path}: `do_normalize` is {normalize!r}; it must be true or false")
    return normalize


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; an empty one where `optional` and there is none."""
    if optional and not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a JSON object")
    return values
