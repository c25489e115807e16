"""Rebuild every table that needs no GPU: run its command, store its JSON beside the page, and put the table into it.

    python benchmarks/rebuild_results.py --fsdd FSDD --commonvoice COMMONVOICE    # or make results; a day on 2 cores
    python benchmarks/rebuild_results.py fsdd "distil and sample"                 # some of the steps
    python benchmarks/rebuild_results.py --list                                   # their names and commands

Finished steps are skipped when it is run again, and an interrupted training continues. A step without its data is left
out and named. A finished step replaces the stored files, and the Markdown tables in all pages that contain the stored
one. What pages say about a table in their text must be checked by hand: `git diff` shows which tables changed.
"""

import argparse
import json
import shlex
import shutil
import string
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from w2v_compress.benchmark import report as benchmark_report
from w2v_compress.cli.console import print_table
from w2v_compress.files import replacing, write_text
from w2v_compress.papers import bigfoot_table

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from steps import Step, run_steps  # noqa: E402

STORED = "benchmarks/results"
DATA = {"fsdd": "--fsdd", "commonvoice": "--commonvoice"}
"""Options that give the folder for a placeholder in a command."""


@dataclass(frozen=True)
class Recipe:
    """A command, with placeholders `{out}` and those of `DATA`, and the files that it writes below `{out}`."""

    command: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Where each file is stored, relative to the repository's root, by its path below `{out}`."""
    result: str = ""
    """File below `{out}` that shows success; the first of `files` by default."""

    @property
    def first(self) -> str:
        """The file that shows success."""
        return self.result or next(iter(self.files))


def stored_in(stored: str, folder: str, *names: str) -> dict[str, str]:
    """Return `files` for those of a folder below `{out}`, such as a results file with its Markdown and plot."""
    return {f"{folder}/{name}": f"{stored}/{name}" for name in names}


def stored_json(name: str) -> dict[str, str]:
    """Return `files` for a results file of benchmarks/."""
    return {f"{name}.json": f"{STORED}/{name}.json"}


def compared(name: str, options: str) -> Recipe:
    """Return a comparison of runtimes by `w2v-compress benchmark`."""
    return Recipe(f"w2v-compress benchmark {options} --json {{out}}/{name}.json", stored_json(name))


QUICKSTART, FSDD, STOCHASTIC = "examples/quickstart", "examples/fsdd", "examples/stochastic"
RESULTS = ("results.json", "results.md", "results.png")
PEERS = "transformers-fp32,onnxruntime-int8,openvino-fp32,openvino-int8"
RECIPES = {
    "demo": Recipe(
        f"python {QUICKSTART}/run.py --out {{out}}/quickstart",
        stored_in(f"{QUICKSTART}/results", "quickstart", *RESULTS),
    ),
    "demo, three seeds": Recipe(
        f"python {QUICKSTART}/seeds.py --out {{out}}/quickstart",
        stored_in(f"{QUICKSTART}/results", "quickstart", "seeds.json", "seeds.md", "seeds.png"),
    ),
    "losses of distillation": Recipe(
        f"python {QUICKSTART}/ablation.py --out {{out}}/quickstart",
        stored_in(f"{QUICKSTART}/results", "quickstart", "ablation.json", "ablation.md"),
    ),
    "language model": Recipe(
        f"python {QUICKSTART}/lm.py --out {{out}}/quickstart",
        stored_in(f"{QUICKSTART}/results", "quickstart", "lm.json"),
    ),
    "connected digits": Recipe(
        f"python {FSDD}/run.py {{fsdd}} --seeds 1 2 3 --subset dev --out {{out}}/fsdd",
        stored_in(f"{FSDD}/results", "fsdd", *RESULTS),
    ),
    "claims on digits": Recipe(
        f"python {STOCHASTIC}/digits.py {{fsdd}} --out {{out}}/digits",
        stored_in(f"{STOCHASTIC}/results/digits", "digits", *RESULTS),
    ),
    "models of the digits": Recipe(
        f"python {STOCHASTIC}/store_models.py {{out}}/digits",
        stored_in(
            f"{STOCHASTIC}/results/digits",
            "digits/stored",
            "pinned-to-1-1-1-2-000-updates-seed-2.safetensors",
            "pinned-to-4-1-1-2-000-updates-seed-2.safetensors",
            "sampled-over-s-2-000-updates-seed-2.safetensors",
            "sampled-over-s-q-k-4-000-updates-seed-2.safetensors",
        ),
    ),
    "pooling": Recipe(
        f"python {STOCHASTIC}/pooling.py {{out}}/digits",
        stored_in(f"{STOCHASTIC}/results/digits", "digits", "pooling.json", "pooling.md"),
    ),
    "pre-training": Recipe(
        f"python {STOCHASTIC}/pretraining.py {{out}}/digits",
        stored_in(f"{STOCHASTIC}/results/digits", "digits", "pretraining.json", "pretraining.md"),
    ),
    "claims on sentences": Recipe(
        f"python {STOCHASTIC}/sentences.py {{commonvoice}} --out {{out}}/sentences",
        stored_in(f"{STOCHASTIC}/results/sentences", "sentences", *RESULTS),
    ),
    "elastic training": Recipe(
        f"python {STOCHASTIC}/elastic_training.py {{out}}/sentences",
        stored_in(f"{STOCHASTIC}/results/sentences", "sentences", "elastic_training.json", "elastic_training.md"),
    ),
    "the table of the paper": Recipe(
        "w2v-compress tables bigfoot --json {out}/bigfoot.json --markdown {out}/bigfoot.md", stored_json("bigfoot")
    ),
    "base": Recipe(
        "w2v-compress benchmark --architecture base --peers all --json {out}/benchmark_base.json "
        "--plot {out}/benchmark_base.png",
        {**stored_json("benchmark_base"), "benchmark_base.png": f"{STORED}/benchmark_base.png"},
    ),
    "large": compared("benchmark_large", "--architecture large --peers all --seconds 2,10,30 --batch ''"),
    "four layers": compared("benchmark_student_4", f"--architecture student-4 --peers {PEERS} --batch ''"),
    "four layers against large": compared(
        "benchmark_student_against_large",
        "--architecture student-4 --points 2,1,2 --against large --peers transformers-fp32 --seconds 10 --batch ''",
    ),
    "base at other points": compared(
        "benchmark_base_points",
        "--architecture base --points '2,1,1 2,2,2 4,1,1' --peers transformers-fp32,openvino-int8 --batch ''",
    ),
    "sew-tiny": compared("benchmark_sew_tiny", "--architecture sew-tiny --peers transformers-fp32,onnxruntime-int8"),
    **{
        f"busy machine, {busy}": compared(
            f"busy_{busy}",
            f"--architecture base --peers openvino-fp32,openvino-int8 --seconds 2,10 --batch '' --busy {busy}",
        )
        for busy in (0, 1, 2, 4)
    },
    "base, random weights": Recipe(
        "w2v-compress export --architecture base {out}/base.safetensors", result="base.safetensors"
    ),
    "base, random weights, int8": Recipe(
        "w2v-compress quantize {out}/base.safetensors {out}/base-int8.safetensors --calibrate {out}/quickstart/data",
        result="base-int8.safetensors",
    ),
    "start": Recipe(
        "python benchmarks/start.py {out}/base.safetensors {out}/base-int8.safetensors --json {out}/start.json",
        stored_json("start"),
    ),
    "throughput": Recipe(
        "python benchmarks/throughput.py {out}/base.safetensors {out}/quickstart/data --seconds 80 "
        "--json {out}/throughput.json",
        stored_json("throughput"),
    ),
    "errors of engines": Recipe(
        "python benchmarks/engine_errors.py {out}/quickstart/teacher.safetensors {out}/quickstart/data "
        "--json {out}/engine_errors.json",
        stored_json("engine_errors"),
    ),
    "long audio": Recipe(
        "python benchmarks/long_audio.py {fsdd} --json {out}/long_audio.json", stored_json("long_audio")
    ),
    "long audio, trained": Recipe(
        "python benchmarks/long_audio.py {fsdd} --model {out}/fsdd/teacher.safetensors "
        "--json {out}/long_audio_digits.json",
        stored_json("long_audio_digits"),
    ),
    **{
        name: Recipe(f"python benchmarks/{script}.py{options} --json {{out}}/{script}.json", stored_json(script))
        for name, script, options in (
            ("group norm", "group_norm", ""),
            ("int8 by operator", "quantization", " --threads 1"),
            ("points", "points", ""),
            ("teacher cache", "teacher_cache", ""),
            ("speed of training", "training", ""),
            ("scale", "scale", ""),
            ("manifests", "manifests", ""),
        )
    },
    "claims": Recipe("python benchmarks/claims.py --markdown {out}/claims.md", {"claims.md": f"{STORED}/claims.md"}),
}
"""The steps by name, in the order in which later ones find the models of earlier ones."""


def placeholders(command: str) -> set[str]:
    """Return the names of the placeholders in a command."""
    return {name for _, name, _, _ in string.Formatter().parse(command) if name}


def step_of(name: str, recipe: Recipe, out: Path, folders: Mapping[str, Path | None]) -> Step:
    """Return the step of a recipe; without its data, a step that is left out."""
    missing = [DATA[each] for each in sorted(placeholders(recipe.command) - {"out"}) if folders[each] is None]
    command = [part.format(out=out, **folders) for part in shlex.split(recipe.command)]
    return Step(name, command, out / recipe.first, missing=" ".join(missing))


def markdown_of(path: Path) -> str:
    """Return the Markdown of a Markdown file, or of a JSON with a table of `w2v-compress`; empty for other files."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    if path.name == "bigfoot.json":
        return bigfoot_table.markdown(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".json" and path.name.startswith(("benchmark_", "busy_")):
        return benchmark_report.markdown(benchmark_report.read_results(path))
    return ""


def tables(markdown: str) -> list[str]:
    """Return the tables in a Markdown text, each with its lines."""
    lines = "\n".join(line if line.startswith("|") else "" for line in markdown.splitlines())
    return [table.strip("\n") for table in lines.split("\n\n") if table.strip("\n")]


def pages(root: Path) -> list[Path]:
    """Return the pages that may contain tables."""
    return [
        root / "README.md",
        *sorted((root / "docs").rglob("*.md")),
        *sorted((root / "examples").glob("*/README.md")),
    ]


def store(recipe: Recipe, out: Path, root: Path) -> list[str]:
    """Replace the stored files of a finished step and the tables of the pages; return the pages that changed."""
    changed = set()
    for source, target in recipe.files.items():
        new, stored = out / source, root / target
        if stored.exists():
            texts = markdown_of(stored), markdown_of(new)
            replaced = [texts, *zip(*map(tables, texts), strict=False)] if texts[0] else []
            for page in pages(root):
                text = before = page.read_text(encoding="utf-8")
                for old, fresh in replaced:
                    text = text.replace(old, fresh)
                if text != before:
                    write_text(page, text)
                    changed.add(str(page.relative_to(root)))
        stored.parent.mkdir(parents=True, exist_ok=True)
        with replacing(stored) as temporary:
            shutil.copyfile(new, temporary)
    return sorted(changed)


def finish(out: Path, recipes: Mapping[str, Recipe], report: Callable[[str], None], step: Step) -> None:
    """Store what a step has written, and report the pages that changed."""
    changed = store(recipes[step.name], out, ROOT)
    report(f"{step.name}: done; tables replaced in: {', '.join(changed) or 'no page'}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", help="names of steps (default: all)")
    parser.add_argument("--fsdd", type=Path, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--commonvoice", type=Path, help="folder of sentences of Common Voice with utterances.csv")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "results", help="folder for models and logs")
    parser.add_argument("--list", action="store_true", help="print the steps with their commands")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.steps if name not in RECIPES]:
        parser.error(f"unknown step {unknown[0]!r}; the steps are: {', '.join(RECIPES)}")
    chosen = {name: recipe for name, recipe in RECIPES.items() if name in (args.steps or RECIPES)}
    if args.list:
        print_table("Steps", ["step", "command"], [[name, recipe.command] for name, recipe in chosen.items()])
        return
    out = args.out.resolve()
    folders = {
        name: folder and folder.resolve() for name, folder in (("fsdd", args.fsdd), ("commonvoice", args.commonvoice))
    }
    steps = [step_of(name, recipe, out, folders) for name, recipe in chosen.items()]
    if not run_steps(steps, out, "Tables", finish=partial(finish, out, RECIPES, print)):
        sys.exit(1)


if __name__ == "__main__":
    main()
