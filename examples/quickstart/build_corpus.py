"""Build the quickstart corpus from Debian's English Asterisk prompts.

    python examples/quickstart/build_corpus.py --download examples/quickstart/corpus

Needs `ffmpeg` (reads G.722, writes Opus) and, for `--download`, `apt-get` and `dpkg-deb`. Writes `audio/*.opus` and
`utterances.csv` (columns path, text, split), the input of `w2v-compress prepare csv`. The corpus is committed, so the
example does not need this script; it documents and reproduces the corpus.
"""

import argparse
import csv
import gzip
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

PACKAGES = ("asterisk-core-sounds-en", "asterisk-core-sounds-en-g722")
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
ONES += ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
BRACKETED = re.compile(r"\[[^]]*\]|\([^)]*\)|<[^>]*>")
# Prompts that are spoken differently from the general rule of `number_in_words`.
SPOKEN_AS_DIGITS = {"spy-h323": "H three two three"}
# Spelling errors in the listing, with the word that is spoken.
SPELLING = {
    "FOURTIETH": "FORTIETH",
    "INDENTIFIED": "IDENTIFIED",
    "REPRESENATIVES": "REPRESENTATIVES",
    "UMUTE": "UNMUTE",
    "WITHELD": "WITHHELD",
}


def number_in_words(digits: str) -> str:
    """Spell out a number: 500 -> five hundred, 42 -> forty two; from 1000 on, digit by digit."""
    number = int(digits)
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + (f" {ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        rest = f" {number_in_words(str(number % 100))}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    return " ".join(ONES[int(digit)] for digit in digits)


def normalize(text: str) -> str:
    """Normalize a prompt to capital letters, apostrophes and spaces; empty if it contains no speech."""
    text = BRACKETED.sub(" ", text)
    text = re.sub(r"\d+", lambda match: f" {number_in_words(match.group())} ", text)
    text = text.replace("\u2019", "'").upper().replace("@", " AT ")
    text = re.sub(r"[^A-Z']+", " ", text)
    text = re.sub(r"(?<![A-Z])'|'(?![A-Z])", " ", text)  # quotation marks, not apostrophes
    return " ".join(SPELLING.get(word, word) for word in text.split())


def read_prompts(listing: Path) -> dict[str, str]:
    """Read a listing (lines of `name: text`; `;` starts a comment) as prompt name -> normalized text, in order."""
    prompts = {}
    with gzip.open(listing, "rt", encoding="utf-8") as lines:
        for line in lines:
            name, colon, text = line.strip().partition(":")
            if not colon or name.startswith(";"):
                continue
            spoken = normalize(SPOKEN_AS_DIGITS.get(name, text))
            if spoken:
                prompts[name] = spoken
    return prompts


def split_prompts(prompts: dict[str, str], seed: int, test_prompts: int, dev_prompts: int) -> dict[str, str]:
    """Assign prompts to splits: prompt name -> split.

    Test and dev prompts have at least two words, each of which occurs at least twice in training. All prompts with the
    same text are in the same split.
    """
    same_text = defaultdict(list)
    for name, text in prompts.items():
        same_text[text].append(name)
    in_training = Counter(word for text in prompts.values() for word in text.split())
    candidates = sorted(text for text in same_text if len(text.split()) >= 2)
    random.Random(seed).shuffle(candidates)

    split = dict.fromkeys(prompts, "train")
    remaining = [("test", test_prompts), ("dev", dev_prompts)]
    for text in candidates:
        if not remaining:
            break
        words = Counter(text.split())
        names = same_text[text]
        if any(in_training[word] - count * len(names) < 2 for word, count in words.items()):
            continue
        subset, missing = remaining.pop(0)
        for name in names:
            split[name] = subset
            in_training -= words
        if missing > len(names):
            remaining.insert(0, (subset, missing - len(names)))
    return split


def download(folder: Path) -> None:
    """Download and unpack the Debian packages into `folder`."""
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package.name, "."], cwd=folder, check=True)


def to_opus(source: Path, target: Path, kilobits: int) -> None:
    """Convert G.722 audio to Opus."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["ffmpeg", "-v", "error", "-y", "-f", "g722", "-i", source, "-map_metadata", "-1"]
    command += ["-fflags", "+bitexact", "-flags:a", "+bitexact"]
    subprocess.run([*command, "-c:a", "libopus", "-b:a", f"{kilobits}k", "-application", "voip", target], check=True)


def build(root: Path, out: Path, seed: int, test_prompts: int, dev_prompts: int, kilobits: int) -> None:
    """Write the corpus of the packages unpacked under `root` to `out`."""
    sounds = root / "usr/share/asterisk/sounds/en_US_f_Allison"
    prompts = read_prompts(root / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
    prompts = {name: text for name, text in prompts.items() if (sounds / f"{name}.g722").exists()}
    split = split_prompts(prompts, seed, test_prompts, dev_prompts)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "utterances.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "text", "split"])
        for name, text in sorted(prompts.items()):
            path = f"audio/{name.replace('/', '_')}.opus"
            to_opus(sounds / f"{name}.g722", out / path, kilobits)
            rows.writerow([path, text, split[name]])
    for subset, count in sorted(Counter(split.values()).items()):
        words = sum(len(prompts[name].split()) for name in prompts if split[name] == subset)
        print(f"{subset}: {count} prompts, {words} words")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write the corpus to")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--download", action="store_true", help="download the packages with apt-get")
    source.add_argument("--root", type=Path, help="folder under which the packages are installed or unpacked (/)")
    parser.add_argument(
        "--seed",
        type=int,
        default=9,
        help="random seed for the split (default: %(default)s)",
    )
    parser.add_argument("--test-prompts", type=int, default=80, help="number of test prompts (default: %(default)s)")
    parser.add_argument("--dev-prompts", type=int, default=40, help="number of dev prompts (default: %(default)s)")
    parser.add_argument("--kilobits", type=int, default=24, help="Opus bit rate in kbit/s (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.root or Path(scratch)
        try:
            if args.download:
                download(root)
            build(root, args.out, args.seed, args.test_prompts, args.dev_prompts, args.kilobits)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"build_corpus: {error}")


if __name__ == "__main__":
    main()
