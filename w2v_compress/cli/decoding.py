"""How the commands choose a decoder, and how they show words with their times."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from ..errors import InputError
from .console import warnings_said

STANDARD_INPUT = Path("-")


def set_decoder(
    recognizer: Any,
    *,
    lm: Path | None,
    lexicon: Path | None,
    beam: int | None,
    beam_threshold: float | None,
    lm_weight: float | None,
    word_score: float | None,
) -> dict[str, Any]:
    """Give the recognizer the decoder that the options ask for; returns what a report says of it."""
    needs = (
        ("--lm-weight", lm_weight, "--lm", lm),
        ("--word-score", word_score, "--lm or --lexicon", lm or lexicon),
        ("--beam-threshold", beam_threshold, "--lm, --lexicon or --beam", lm or lexicon or beam),
    )
    for option, value, needed, given in needs:
        if value is not None and given is None:
            raise typer.BadParameter(f"needs {needed}", param_hint=option)
    if lm is None and lexicon is None and beam is None:
        return {"search": "greedy"}
    from ..runtime.decoding.beam_search import BeamOptions, BeamSearchDecoder

    settings = {"beam": beam, "beam_threshold": beam_threshold, "lm_weight": lm_weight, "word_score": word_score}
    options = BeamOptions(**{name: value for name, value in settings.items() if value is not None})  # type: ignore[arg-type]
    header = recognizer.header
    with warnings_said():
        decoder = BeamSearchDecoder(header.units, header.seconds_per_frame, lm=lm, lexicon=lexicon, options=options)
    recognizer.decoder = decoder
    return decoder.settings()


def decoder_name(settings: dict[str, Any]) -> str:
    """What `set_decoder` returned, in a few words."""
    if settings["search"] == "greedy":
        return "greedy"
    files = [Path(settings[name]).name for name in ("lm", "lexicon") if settings[name]]
    return ", ".join([f"beam search, {settings['beam']}", *files])


def print_words(path: Path, words: Iterable[Any]) -> None:
    """The file, and under it each word on a line: start and end in seconds, word."""
    print(path)
    for word in words:
        print(f"{word.start:.2f} {word.end:.2f} {word.text}")
    print(flush=True)


def name_of(path: Path) -> str:
    """What the audio is called in files that are written: the file's name without its suffix, or `stdin`."""
    return "stdin" if path == STANDARD_INPUT else path.stem


def check_ctm_names(audio: Iterable[Path]) -> None:
    """`InputError` when two files would be one in CTM, or a name is none there; done before the work."""
    files: dict[str, Path] = {}
    for path in audio:
        name = name_of(path)
        other = files.setdefault(name, path)
        if other != path:
            raise InputError(f"--ctm: {other} and {path} would both be called {name}")
        if name.split() != [name] or name.startswith(";;"):
            raise InputError(f"--ctm: {path}: a name in CTM has no spaces and does not begin with ;;")


def write_ctm(path: Path, words: Mapping[Path, Iterable[Any]]) -> None:
    """Lines of `FILE CHANNEL START DURATION WORD`, as sclite of NIST's SCTK reads them; the channel is always 1."""
    from ..files import write_text

    lines = [
        f"{name_of(file)} 1 {word.start:.2f} {word.end - word.start:.2f} {word.text}\n"
        for file, said in words.items()
        for word in said
    ]
    write_text(path, "".join(lines))
