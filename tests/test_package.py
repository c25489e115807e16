"""The package as it is built and laid out: metadata, pinned versions, and imports that run one way."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import w2v_compress

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "w2v_compress"

LAYERS = ("nn", "data", "quantization", "runtime", "peers", "evaluation", "cli")
"""A module may import those of its own layer and of the ones before it."""

FAIRSEQ_SIDE = ("compat", "models", "criterions", "tasks")
IMPORTS_FAIRSEQ = ("fairseq", "fairseq_cli", "hydra", "omegaconf")


def imports(tree: ast.Module, module: Path) -> Iterator[tuple[str, bool]]:
    """(absolute dotted name, whether it is imported along with the module) of each import."""
    inside_functions = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    package = ("w2v_compress", *module.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from ((name, node not in inside_functions) for name in names)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(module: Path) -> None:
    part = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = list(imports(ast.parse(module.read_text(encoding="utf-8")), module))
    if part not in FAIRSEQ_SIDE:
        with_module = [name for name, at_import in found if at_import]
        assert not [name for name in with_module if name.split(".")[0] in IMPORTS_FAIRSEQ]
        assert not [
            name for name in with_module if name.startswith(tuple(f"w2v_compress.{side}" for side in FAIRSEQ_SIDE))
        ]
    if part in LAYERS:
        later = tuple(f"w2v_compress.{layer}" for layer in LAYERS[LAYERS.index(part) + 1 :])
        assert not [name for name, _ in found if later and name.startswith(later)]


def test_importing_the_package_is_light() -> None:
    program = "import sys, w2v_compress; print([m for m in ('torch', 'fairseq', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def setup_metadata(*fields: str) -> list[str]:
    """What setup.py declares, asked of it in a process of its own with setuptools' own option."""
    command = [sys.executable, "setup.py", "--quiet", *(f"--{field}" for field in fields)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_version_is_the_packages() -> None:
    assert setup_metadata("name", "version") == ["w2v-compress", w2v_compress.__version__]
    assert f"## [{w2v_compress.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_requirement_is_pinned_to_one_version() -> None:
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    required = {name.lower() for name in re.findall(r'f?"([A-Za-z0-9-]+)(?:>=|==)[0-9]', source)}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    pins = dict(line.lower().split("==") for line in lines)
    assert len(pins) == len(lines)
    assert {"torch", "ve-fairseq", "hydra-core", "matplotlib", "pytest"} <= required
    assert required - pins.keys() == {"fairseq-fixed"}  # the one for other machines than the constraints are of
    assert "+" not in pins["torch"]
