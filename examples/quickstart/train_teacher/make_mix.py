"""Create the training audio of the quickstart teacher.

    python make_mix.py OUT --prompts ../corpus [--speech FOLDER]... [--digits FOLDER] [--synthetic-hours 2.5]

Twenty minutes of one speaker are too little to train a network from scratch (see README.md), so they are augmented:
prompts are joined into phrases, with varied speed and added noise. FOLDERs are corpora with `utterances.csv` (columns
path, text, split, optional speaker); sentences are repeated with other speeds and noise, and digits are joined into
strings of one speaker. Debian's `flite` synthesizes speech from words of the prompts. Only the split `train` of each
corpus is trained on. With an aligner, prompts are also cut into words, which are joined to new sentences.

Writes three training subsets as fairseq manifests, `short` (digits and short phrases, with which CTC leaves its blank
plateau soonest), `mixed` (everything) and `last` (everything but the joined prompts, which the network knows by heart
by then), and for validation `dev` of the prompts and `dev_NAME` of each FOLDER of sentences.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

import w2v_compress
from w2v_compress.data.audio import SAMPLE_RATE, read_audio
from w2v_compress.data.manifest import Utterance, write_manifest
from w2v_compress.data.units import Units
from w2v_compress.runtime.recognizer import Recognizer

sys.path += [str(Path(__file__).resolve().parents[folder]) for folder in (1, 2)]

from common import one_line_errors
from splice import cut_words, splice

FLITE_VOICES = ("slt", "slt", "rms", "awb", "kal16")  # slt, a female US English voice, is closest to the prompts


@dataclass
class Clip:
    """An utterance with its audio."""

    samples: np.ndarray  # (time,) float32 at 16 kHz
    text: str
    speaker: str = ""


def read_corpus(folder: Path, split: str) -> list[Clip]:
    """Read the clips of `split` in `folder`/utterances.csv."""
    utterances = []
    with open(folder / "utterances.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] != split:
                continue
            samples = read_audio(folder / row["path"])
            utterances.append(Clip(samples, row["text"].upper(), row.get("speaker") or ""))
    return utterances


def trim(samples: np.ndarray, margin: float = 0.06) -> np.ndarray:
    """Trim leading and trailing silence, except for `margin` seconds."""
    frame = SAMPLE_RATE // 100
    energy = np.square(samples[: len(samples) // frame * frame].reshape(-1, frame)).mean(1)
    loud = np.flatnonzero(energy > 1e-4 * energy.max())
    start, end = loud[0] * frame - int(margin * SAMPLE_RATE), (loud[-1] + 1) * frame + int(margin * SAMPLE_RATE)
    return samples[max(start, 0) : end]


def augment(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Change speed and pitch by a factor of 0.88 to 1.12; in half of the calls, add noise at an SNR of 10 to 35 dB."""
    samples = soxr.resample(samples, SAMPLE_RATE * generator.uniform(0.88, 1.12), SAMPLE_RATE)
    if generator.random() < 0.5:
        noise = generator.standard_normal(len(samples)).astype(np.float32)
        if generator.random() < 0.5:  # most real noise falls with frequency
            noise = np.convolve(noise, np.array([1.0, 0.9, 0.8, 0.7, 0.6], np.float32), "same")
        level = np.sqrt(np.square(samples).mean() / np.square(noise).mean())
        samples = samples + noise * level * 10 ** (-generator.uniform(10, 35) / 20)
    return samples


def join(parts: list[Clip], generator: np.random.Generator) -> Clip:
    """Concatenate `parts` with 0.05 to 0.3 s of near silence between them."""
    pieces = []
    for part in parts:
        gap = int(generator.uniform(0.05, 0.3) * SAMPLE_RATE)
        pieces += [trim(part.samples), 1e-4 * generator.standard_normal(gap).astype(np.float32)]
    return Clip(np.concatenate(pieces[:-1]), " ".join(part.text for part in parts), parts[0].speaker)


def phrases(
    utterances: list[Clip], hours: float, longest: float, most: int, generator: np.random.Generator
) -> list[Clip]:
    """Create `hours` of augmented phrases of 1 to `most` utterances of one speaker, at most `longest` seconds each."""
    by_speaker = defaultdict(list)
    for utterance in utterances:
        if len(utterance.samples) <= longest * SAMPLE_RATE:
            by_speaker[utterance.speaker].append(utterance)
    speakers = sorted(by_speaker)
    made, seconds = [], 0.0
    while speakers and seconds < hours * 3600:
        own = by_speaker[speakers[generator.integers(len(speakers))]]
        count = int(generator.integers(1, most + 1))
        parts = [own[i] for i in generator.integers(len(own), size=count)]
        while len(parts) > 1 and sum(len(part.samples) for part in parts) > longest * SAMPLE_RATE:
            parts.pop()
        phrase = join(parts, generator)
        phrase.samples = augment(phrase.samples, generator)
        made.append(phrase)
        seconds += len(phrase.samples) / SAMPLE_RATE
    return made


def spliced(
    recognizer: Recognizer, utterances: list[Clip], held_out: set[str], hours: float, generator: np.random.Generator
) -> list[Clip]:
    """Create `hours` of augmented new sentences from words of `utterances`, and none of `held_out`; see splice.py."""
    cut = [cut_words(recognizer, trim(clip.samples), clip.text) for clip in utterances]
    made, seconds = [], 0.0
    while seconds < hours * 3600:
        samples, text = splice(cut, generator)
        if text not in held_out:
            made.append(Clip(augment(samples, generator), text))
            seconds += len(made[-1].samples) / SAMPLE_RATE
    return made


def synthetic_text(texts: list[str], held_out: set[str], longest: int, choice: random.Random) -> str:
    """Draw one to three word sequences from training texts, at most `longest` words, and not a held-out text."""
    while True:
        words: list[str] = []
        for _ in range(choice.randint(1, 3)):
            source = choice.choice(texts).split()
            start = choice.randrange(len(source))
            words += source[start : start + choice.randint(1, 6)]
        text = " ".join(words[:longest])
        if text not in held_out:
            return text


def synthesize(
    texts: list[str], held_out: set[str], hours: float, longest: int, seed: int, generator: np.random.Generator
) -> list[Clip]:
    """Synthesize `hours` of speech with flite: random word sequences from `texts`, and none of `held_out`."""
    choice = random.Random(seed)
    made, seconds = [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        wav = Path(scratch) / "speech.wav"
        while seconds < hours * 3600:
            text, voice = synthetic_text(texts, held_out, longest, choice), choice.choice(FLITE_VOICES)
            subprocess.run(["flite", "-voice", voice, "-t", text.lower(), "-o", wav], check=True)
            made.append(Clip(augment(trim(read_audio(wav)), generator), text, voice))
            seconds += len(made[-1].samples) / SAMPLE_RATE
    return made


def write_subset(out: Path, subset: str, utterances: list[Clip]) -> list[Utterance]:
    """Write the audio and the fairseq manifest of a subset: `subset`.tsv, .ltr and .wrd; return its utterances."""
    (out / "audio" / subset).mkdir(parents=True, exist_ok=True)
    hours = sum(len(utterance.samples) for utterance in utterances) / SAMPLE_RATE / 3600
    made = []
    for index, utterance in enumerate(utterances):
        path = out / "audio" / subset / f"{index:06d}.wav"
        peak = max(1.0, float(np.abs(utterance.samples).max()))
        soundfile.write(path, utterance.samples / peak, SAMPLE_RATE, subtype="PCM_16")
        made.append(Utterance(path, len(utterance.samples), utterance.text))
    write_manifest(out, subset, made, Units.letters())
    print(f"{subset}: {len(utterances)} utterances, {hours:.2f} h")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write manifests and audio to")
    parser.add_argument("--prompts", type=Path, required=True, help="the quickstart corpus")
    parser.add_argument("--speech", type=Path, action="append", default=[], help="a corpus of sentences; repeatable")
    parser.add_argument("--digits", type=Path, help="a corpus of single digits (Free Spoken Digit Dataset)")
    parser.add_argument("--synthetic-hours", type=float, default=2.5, help="hours of synthetic speech; 0 for none")
    parser.add_argument("--copies", type=int, default=3, help="times that sentences are repeated, the first unchanged")
    parser.add_argument("--prompt-hours", type=float, default=5.0, help="hours of augmented prompts")
    parser.add_argument("--aligner", help="a model file, or name of a shipped model, to cut prompts into words with")
    parser.add_argument("--spliced-hours", type=float, default=6.0, help="with --aligner: hours of joined words")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    args = parser.parse_args()
    out: Path = args.out.resolve()  # fairseq reads manifests from another folder
    generator = np.random.default_rng(args.seed)
    with one_line_errors(KeyError, subprocess.CalledProcessError):
        prompts = read_corpus(args.prompts, "train")
        texts = [prompt.text for prompt in prompts]
        dev = read_corpus(args.prompts, "dev")
        speech_dev = {folder.name: read_corpus(folder, "dev") for folder in args.speech}
        kept_out = dev + read_corpus(args.prompts, "test") + [clip for clips in speech_dev.values() for clip in clips]
        held_out = {clip.text for clip in kept_out}
        digits = read_corpus(args.digits, "train") if args.digits else []
        speech = [clip for folder in args.speech for clip in read_corpus(folder, "train")]
        short = phrases(digits, 1.0, 5, 5, generator) + phrases(prompts, 1.5, 3, 3, generator)
        joined = phrases(prompts, args.prompt_hours, 12, 5, generator)
        varied = prompts + phrases(digits, 0.5, 8, 7, generator) + speech
        for _ in range(args.copies - 1):
            varied += [Clip(augment(clip.samples, generator), clip.text, clip.speaker) for clip in speech]
        if args.synthetic_hours:
            short += synthesize(texts, held_out, 0.2 * args.synthetic_hours, 4, args.seed, generator)
            varied += synthesize(texts, held_out, args.synthetic_hours, 12, args.seed + 1, generator)
        if args.aligner:
            varied += spliced(w2v_compress.load(args.aligner), prompts, held_out, args.spliced_hours, generator)
        write_subset(out, "short", short)
        written = write_subset(out, "mixed", varied + joined)
        write_manifest(out, "last", written[: len(varied)], Units.letters())
        write_subset(out, "dev", dev)
        for name, clips in speech_dev.items():
            write_subset(out, f"dev_{name}", clips)
        Units.letters().write_dictionary(out / "dict.ltr.txt")


if __name__ == "__main__":
    main()
