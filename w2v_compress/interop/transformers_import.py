"""Import of a folder of Hugging Face transformers, `Wav2Vec2ForCTC` in safetensors. Does not need transformers.

Importing a folder never runs code from it: its files hold JSON and numbers only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.audio import SAMPLE_RATE
from ..data.units import SPECIALS, Units
from ..errors import InputError, prefixed
from ..json_objects import read_json
from ..model_file.header import Header
from ..model_file.storage import ModelFile, read_tensors, write_model
from ..model_file.tensor_file import open_safetensors
from ..nn.architecture import Architecture
from ..nn.parameters import check_layer_counts, parameter_shapes
from . import transformers_format

WEIGHTS = "model.safetensors"
ABSENT_LOGIT = -1e4
"""Logit of a unit that the folder lacks: below all others, and finite in fp16."""


@dataclass(frozen=True)
class _Vocabulary:
    """The output units of a folder in our order."""

    units: Units
    rows: list[int | None]
    """Row of the folder's CTC head for each unit, or None if it has none."""


def import_transformers(folder: Path, out: Path) -> ModelFile:
    """Write the `Wav2Vec2ForCTC` in `folder` as the model file `out`; errors are those of `read_transformers`."""
    model = read_transformers(folder)
    write_model(out, model)
    return model


def read_transformers(folder: Path) -> ModelFile:
    """Read the recognizer in a folder of transformers.

    The folder holds config.json, model.safetensors, vocab.json, and the configuration of the tokenizer and the feature
    extractor. Units are reordered to fairseq's order, with the blank first. Those of fairseq's first four units that
    the folder lacks get the logit `ABSENT_LOGIT`. Raises `InputError` that names the file and what is missing, or the
    setting that our network does not support.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    tensors = _read_tensors(folder)
    config_file = folder / "config.json"
    config = read_json(config_file)
    head = tensors.get("lm_head.bias")
    if head is None or head.ndim != 1:
        raise InputError(f"{folder / WEIGHTS}: `lm_head.bias`, the CTC head, is missing: this model was not fine-tuned")
    weight = tensors.get("lm_head.weight")
    if weight is not None and (weight.ndim != 2 or len(weight) != len(head)):
        raise InputError(f"{folder / WEIGHTS}: `lm_head.weight` must have two dimensions and {len(head)} rows")
    vocabulary, normalize = _read_vocabulary(folder, len(head)), _read_normalize(folder)
    with prefixed(config_file):
        if config.get("vocab_size", len(head)) != len(head):
            raise InputError(f"`vocab_size` is {config['vocab_size']!r}; the CTC head has {len(head)} units")
        architecture = transformers_format.from_config(config, len(vocabulary.units.symbols))
    with prefixed(folder / WEIGHTS):
        state = _convert_state(architecture, tensors, vocabulary.rows)
        return ModelFile(Header(architecture=architecture, units=vocabulary.units, normalize=normalize), state)


def _convert_state(
    architecture: Architecture, tensors: dict[str, Tensor], head_rows: list[int | None]
) -> dict[str, Tensor]:
    """Return our state dict. Removes its tensors from `tensors`; raise `InputError` if one is missing or left over."""
    if architecture.conv_layers[-1][0] == architecture.encoder_embed_dim:
        _drop_identity(tensors)
    if "wav2vec2.encoder.layer_norm.bias" in tensors:  # absent in models trained without masking
        tensors.setdefault("wav2vec2.masked_spec_embed", torch.zeros_like(tensors["wav2vec2.encoder.layer_norm.bias"]))
    state = {}
    check_layer_counts(architecture, len(tensors))
    for name in parameter_shapes(architecture):
        theirs = transformers_format.tensor_name(name)
        if theirs not in tensors:
            raise InputError(f"the tensor `{theirs}` is missing")
        state[name] = tensors.pop(theirs)
    if tensors:
        raise InputError(f"the tensor `{min(tensors)}` is unknown")
    for name, absent in (("proj.weight", 0.0), ("proj.bias", ABSENT_LOGIT)):
        rows = state[name]
        state[name] = torch.stack([torch.full_like(rows[0], absent) if row is None else rows[row] for row in head_rows])
    return state


def _drop_identity(tensors: dict[str, Tensor]) -> None:
    """Remove the projection between equal widths, which our network lacks; raise `InputError` if not the identity."""
    weight, bias = (tensors.pop(f"{transformers_format.PROJECTION}{name}", None) for name in ("weight", "bias"))
    if weight is None or bias is None or bias.any() or not _is_identity(weight):
        raise InputError(
            f"`{transformers_format.PROJECTION}weight` projects between equal widths, which our network does not; "
            "it must be the identity"
        )


def _is_identity(weight: Tensor) -> bool:
    """Return whether `weight` is a square identity matrix."""
    square = weight.ndim == 2 and weight.shape[0] == weight.shape[1]
    return square and torch.equal(weight, torch.eye(len(weight)).to(weight))


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        found = next(iter(sorted(folder.glob("pytorch_model*.bin"))), None)
        if found is not None:
            raise InputError(
                f"{found}: not read, because a pickle can run code; it must be {WEIGHTS}. Convert the folder with "
                f"`python -c \"from transformers import Wav2Vec2ForCTC as M; M.from_pretrained('{folder}')"
                f".save_pretrained('{folder}')\"`"
            )
        raise InputError(f"{path}: no such file; weights split into several files are not supported")
    with open_safetensors(path, "pt") as file, prefixed(path):
        return {transformers_format.current_name(name): tensor for name, tensor in read_tensors(file).items()}


def _read_vocabulary(folder: Path, rows: int) -> _Vocabulary:
    path, configuration = folder / "vocab.json", folder / "tokenizer_config.json"
    tokens = read_json(path) | _read_optional_json(folder / "added_tokens.json")
    if any(type(number) is not int or number < 0 for number in tokens.values()):
        raise InputError(f"{path}: must be a JSON object of tokens and their numbers from 0, for one language")
    symbols: dict[int, str] = {}
    for token, number in tokens.items():
        if symbols.setdefault(number, token) != token:
            raise InputError(f"{path}: the tokens {symbols[number]!r} and {token!r} have the same number {number}")
    missing = next((number for number in range(rows) if number not in symbols), None)
    if missing is not None:
        raise InputError(f"{path}: has no token {missing}; the CTC head has {rows} units")
    settings = _read_optional_json(folder / "special_tokens_map.json") | _read_optional_json(configuration)
    if settings.get("tokenizer_class", "Wav2Vec2CTCTokenizer") != "Wav2Vec2CTCTokenizer":
        raise InputError(
            f"{configuration}: `tokenizer_class` is {settings['tokenizer_class']!r}; it must be 'Wav2Vec2CTCTokenizer'"
        )
    head_rows: list[int | None] = []
    for role, default in zip(transformers_format.ROLES, transformers_format.SPECIALS, strict=True):
        content = _content(settings.get(role, default))
        number = None if content is None else tokens.get(content)
        head_rows.append(number if number is not None and number < rows and number not in head_rows else None)
    if head_rows[0] is None:
        raise InputError(f"{path}: has no {settings.get('pad_token', '<pad>')!r}, which is the CTC blank")
    others = [number for number in range(rows) if number not in head_rows]
    with prefixed(path):
        units = Units("letter", (*SPECIALS, *map(_spelling(settings), (symbols[number] for number in others))))
    return _Vocabulary(units, [*head_rows, *others])


def _spelling(settings: dict[str, Any]) -> Callable[[str], str]:
    """Return a function from a token to our unit: `|` for the word delimiter, lower case if the tokenizer lowers it."""
    delimiter = _content(settings.get("word_delimiter_token", "|"))
    lower = settings.get("do_lower_case") is True

    def spell(token: str) -> str:
        if token == delimiter:
            return "|"
        return token.lower() if lower else token

    return spell


def _content(token: Any) -> str | None:
    """Return the text of a token, which files store as text or as an object with further properties, or None."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _read_normalize(folder: Path) -> bool:
    """Read `do_normalize` of the feature extractor, from its own file or that of the processor."""
    path = folder / "preprocessor_config.json"
    values = _read_optional_json(path)
    if not values:
        values = _read_optional_json(folder / "processor_config.json").get("feature_extractor", {})
    if not values or not isinstance(values, dict):
        raise InputError(f"{path}: no such file, and processor_config.json has no `feature_extractor`")
    rate, normalize = values.get("sampling_rate", SAMPLE_RATE), values.get("do_normalize", True)
    if rate != SAMPLE_RATE:
        raise InputError(f"{path}: `sampling_rate` is {rate!r}; it must be {SAMPLE_RATE}")
    if not isinstance(normalize, bool):
        raise InputError(f"{path}: `do_normalize` is {normalize!r}; it must be true or false")
    return normalize


def _read_optional_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file, or return an empty one if the file does not exist."""
    return read_json(path) if path.exists() else {}
