"""Draw the figures of docs/architecture.md: `python docs/figures/draw.py` writes the SVG files beside this script.

tests/docs/test_architecture.py compares the arrows of packages.svg with the import rules.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

Position = tuple[int, int]

PACKAGES: dict[str, Position] = {
    "cli": (210, 40),
    "papers": (210, 100),
    "benchmark": (210, 160),
    "evaluation": (210, 220),
    "runtime": (110, 280),
    "tasks": (560, 100),
    "criterions": (560, 160),
    "optim": (390, 160),
    "models": (560, 220),
    "distillation": (560, 280),
    "interop": (390, 340),
    "model_file": (250, 400),
    "compat": (530, 400),
    "data": (170, 460),
    "quantization": (330, 460),
    "nn": (390, 520),
}
FAIRSEQ_SIDE = ("tasks", "criterions", "optim", "models", "compat")
IMPORTS = """
cli papers, papers benchmark, benchmark evaluation, evaluation runtime, evaluation interop, runtime model_file,
tasks criterions, criterions models, models distillation, distillation interop, interop model_file, interop compat,
model_file data, model_file quantization, data nn, quantization nn, compat nn
"""

FILES: dict[str, Position] = {
    "audio + text": (90, 70),
    "manifest": (310, 70),
    "batch": (530, 70),
    "logits": (750, 70),
    "loss": (970, 70),
    "teacher checkpoint": (750, 150),
    "fairseq checkpoint": (90, 260),
    "transformers folder": (90, 320),
    "model file": (310, 290),
    "calibration speech": (530, 200),
    "int8 model file": (530, 290),
    "log-probabilities": (750, 290),
    "text": (970, 290),
    "ONNX, OpenVINO": (310, 390),
    "WER, time, plot": (970, 390),
}
STEPS: dict[tuple[str, str], str] = {
    ("audio + text", "manifest"): "data",
    ("manifest", "batch"): "tasks",
    ("batch", "logits"): "models, nn",
    ("logits", "loss"): "criterions",
    ("teacher checkpoint", "loss"): "distillation",
    ("fairseq checkpoint", "model file"): "interop",
    ("transformers folder", "model file"): "interop",
    ("model file", "int8 model file"): "quantization",
    ("calibration speech", "int8 model file"): "evaluation",
    ("int8 model file", "log-probabilities"): "engines",
    ("log-probabilities", "text"): "decoding",
    ("model file", "ONNX, OpenVINO"): "interop",
    ("text", "WER, time, plot"): "evaluation",
}
TITLES = {"Training": (20, 30), "From checkpoint to text": (20, 220)}

STYLE = """
text { font: 14px sans-serif; text-anchor: middle; dominant-baseline: central; fill: #1a1a1a; }
text.label { font-size: 12px; fill: #4a4a4a; }
text.halo { stroke: white; stroke-width: 5px; }
text.title { font-weight: bold; text-anchor: start; }
rect.box { fill: #e8eef7; stroke: #41639b; }
rect.fairseq { fill: #fbeedb; stroke: #b0771c; }
path { stroke: #555; stroke-width: 1.3; fill: none; marker-end: url(#head); }
"""


def svg(size: Position, title: str, parts: Iterator[str]) -> str:
    """Return an SVG document with a white background, so that it can be read in a dark theme too."""
    width, height = size
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 1 L9 5 L0 9" style="marker-end: none"/></marker>'
    )
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    background = f'<rect width="{width}" height="{height}" fill="white"/>'
    lines = [opening, f"<title>{title}</title>", f"<style>{STYLE}</style>", head, background, *parts, "</svg>"]
    return "\n".join(lines) + "\n"


def boxes(places: Mapping[str, Position], width: int) -> Iterator[str]:
    """Yield a labelled box for each place."""
    for name, (x, y) in places.items():
        kind = "box fairseq" if name in FAIRSEQ_SIDE else "box"
        yield f'<rect class="{kind}" x="{x - width // 2}" y="{y - 16}" width="{width}" height="32" rx="5"/>'
        yield f'<text x="{x}" y="{y}">{name}</text>'


def arrow(start: Position, end: Position, attributes: str = "") -> str:
    """Return an arrow from `start` to `end`."""
    return f'<path d="M{start[0]} {start[1]} L{end[0]} {end[1]}"{attributes}/>'


def packages() -> Iterator[str]:
    """Yield the parts of packages.svg."""
    for pair in IMPORTS.replace("\n", " ").split(","):
        source, target = pair.split()
        (x, y), (to_x, to_y) = PACKAGES[source], PACKAGES[target]
        yield arrow((x, y + 16), (to_x, to_y - 17), f' data-from="{source}" data-to="{target}"')
    yield from boxes(PACKAGES, 120)


def data_flow() -> Iterator[str]:
    """Yield the parts of data_flow.svg."""
    for (source, target), package in STEPS.items():
        (x, y), (to_x, to_y) = FILES[source], FILES[target]
        start, end = ((x, y + 16), (to_x, to_y - 17)) if x == to_x else ((x + 70, y), (to_x - 71, to_y))
        yield arrow(start, end)
        place = f'x="{(start[0] + end[0]) // 2}" y="{(start[1] + end[1]) // 2 - 11}"'
        yield f'<text class="label halo" {place}>{package}</text>'  # two elements: not every viewer has `paint-order`
        yield f'<text class="label" {place}>{package}</text>'
    yield from boxes(FILES, 140)
    for title, (x, y) in TITLES.items():
        yield f'<text class="title" x="{x}" y="{y}">{title}</text>'


def main() -> None:
    """Write both figures."""
    here = Path(__file__).resolve().parent
    figures = {
        "packages.svg": svg((680, 560), "Packages of w2v_compress; arrows point to what a package imports", packages()),
        "data_flow.svg": svg((1060, 430), "Data flow: boxes are data, labels are packages", data_flow()),
    }
    for name, text in figures.items():
        (here / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
