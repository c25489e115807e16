"""Helpers of `transcribe` and `evaluate`: choose a decoder, and print or write words with their times."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError, shown
from .console import printing_warnings

if TYPE_CHECKING:
    from ..runtime.decoding import Word
    from ..runtime.recognizer import Recognizer

STANDARD_INPUT = Path("-")


def set_decoder(
    recognizer: "Recognizer",
    *,
    lm: Path | None,
    lexicon: Path | None,
    beam: int | None,
    beam_threshold: float | None,
    lm_weight: float | None,
    word_score: float | None,
) -> dict[str, Any]:
    """Set the decoder of `recognizer` from the command-line options, and return its settings for the report.

    Raises:
        typer.BadParameter: An option was given without the option that it requires.
    """
    requirements = (
        ("--lm-weight", lm_weight, "--lm", lm),
        ("--word-score", word_score, "--lm or --lexicon", lm or lexicon),
        ("--beam-threshold", beam_threshold, "--lm, --lexicon or --beam", lm or lexicon or beam),
    )
    for option, value, required, given in requirements:
        if value is not None and given is None:
            raise typer.BadParameter(f"requires {required}", param_hint=option)
    if lm is None and lexicon is None and beam is None:
        return {"search": "greedy"}
    from ..runtime.decoding.beam_search import BeamOptions, BeamSearchDecoder

    settings = {"beam": beam, "beam_threshold": beam_threshold, "lm_weight": lm_weight, "word_score": word_score}
    options = BeamOptions(**{name: value for name, value in settings.items() if value is not None})  # type: ignore[arg-type]
    header = recognizer.header
    with printing_warnings():
        decoder = BeamSearchDecoder(header.units, header.seconds_per_frame, lm=lm, lexicon=lexicon, options=options)
    recognizer.decoder = decoder
    return decoder.settings()


def decoder_name(settings: dict[str, Any]) -> str:
    """Describe the settings that `set_decoder` returned in a few words."""
    if settings["search"] == "greedy":
        return "greedy"
    files = [Path(settings[name]).name for name in ("lm", "lexicon") if settings[name]]
    return ", ".join([f"beam search, {settings['beam']}", *files])


def print_words(path: Path, words: "Iterable[Word]") -> None:
    """Print the path, then one line per word: start and end in seconds, and the word; then an empty line."""
    print(shown(str(path)))
    for word in words:
        print(f"{word.start:.2f} {word.end:.2f} {word.text}")
    print(flush=True)


def recording_name(path: Path) -> str:
    """Return the name of a recording in output files: the file name without its suffix, or `stdin`."""
    return "stdin" if path == STANDARD_INPUT else path.stem


def check_ctm_names(audio: Iterable[Path]) -> None:
    """Check that every recording has a distinct name that CTM allows.

    Raises:
        InputError: Two recordings have the same name, or a name contains spaces or starts with `;;`.
    """
    files: dict[str, Path] = {}
    for path in audio:
        name = recording_name(path)
        other = files.setdefault(name, path)
        if other != path:
            raise InputError(f"--ctm: {other} and {path} would have the same name {name}")
        if name.split() != [name] or name.startswith(";;"):
            raise InputError(f"--ctm: {path}: the name must not contain spaces or start with ;;")


def write_ctm(path: Path, words: "Mapping[Path, Iterable[Word]]") -> None:
    """Write the words as CTM, the format of NIST's SCTK: lines of `FILE CHANNEL START DURATION WORD`, channel 1."""
    from ..files import write_text

    lines = [
        f"{recording_name(file)} 1 {word.start:.2f} {word.end - word.start:.2f} {word.text}\n"
        for file, spoken in words.items()
        for word in spoken
    ]
    write_text(path, "".join(lines))
