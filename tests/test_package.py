"""The package as it is built and laid out: metadata, pinned versions, and imports that run one way."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import w2v_compress

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "w2v_compress"

MAY_IMPORT = {
    "nn": "",
    "data": "nn",
    "quantization": "nn",
    "model_file": "nn data quantization",
    "compat": "nn",
    "interop": "nn data quantization model_file compat",
    "runtime": "nn data quantization model_file",
    "distillation": "nn data model_file interop",
    "evaluation": "nn data quantization model_file interop runtime",
    "benchmark": "nn data quantization model_file interop runtime evaluation compat",
    "papers": "nn data quantization model_file interop runtime evaluation benchmark",
    "optim": "",
    "models": "nn data model_file interop distillation compat",
    "criterions": "nn data model_file interop distillation compat models",
    "tasks": "nn data model_file interop distillation compat models criterions",
    "cli": "nn data quantization model_file interop runtime evaluation benchmark papers compat",
}
"""What each package may import besides the modules beside the packages (errors, files, extras, ...) and itself."""

FAIRSEQ_SIDE = ("compat", "models", "criterions", "optim", "tasks")
IMPORTS_FAIRSEQ = ("fairseq", "fairseq_cli", "hydra", "omegaconf")
REGISTRATION = {("models", "criterions"), ("models", "optim")}
"""fairseq imports `models` of its user_dir first, so that registers the other things, which it does not look for."""


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


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages == MAY_IMPORT.keys()
    for package, allowed in MAY_IMPORT.items():
        for other in allowed.split():
            assert package not in MAY_IMPORT[other].split(), f"{package} and {other} would import each other"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(module: Path) -> None:
    part = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = list(imports(ast.parse(module.read_text(encoding="utf-8")), module))
    if part not in FAIRSEQ_SIDE:
        assert not [name for name, with_module in found if with_module and name.split(".")[0] in IMPORTS_FAIRSEQ]
    if part in ("__init__", "__main__"):
        return
    if part not in MAY_IMPORT:  # errors, files, ...
        assert not [name for name, _ in found if package_of(name)]
        return
    allowed = {part, *MAY_IMPORT[part].split()}
    for name, _ in found:
        other = package_of(name)
        assert other is None or other in allowed or (part, other) in REGISTRATION, f"{part} imports {name}"


def package_of(name: str) -> str | None:
    """The package of w2v_compress that the dotted name belongs to."""
    first, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return part if first == "w2v_compress" and part in MAY_IMPORT else None


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
    assert required <= pins.keys()
    assert "+" not in pins["torch"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution, built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("published")
    copy = folder / "repository"
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", ".*_cache", "*.egg-info", "outputs", "build", "dist"
    )
    shutil.copytree(ROOT, copy, ignore=left_out)
    program = "from setuptools import build_meta as b; b.build_sdist('../dist'); b.build_wheel('../dist')"
    done = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "dist"


def wheel_of(published: Path) -> Path:
    (wheel,) = published.glob("*.whl")
    return wheel


def test_what_is_published_is_fit_for_an_index(published: Path) -> None:
    files = [str(file) for file in published.iterdir()]
    assert len(files) == 2
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_metadata(published: Path) -> None:
    with zipfile.ZipFile(wheel_of(published)) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata: Message = Parser().parsestr(wheel.read(name).decode())
        assert [name for name in wheel.namelist() if name.endswith("licenses/LICENSE")]
        assert "w2v_compress/py.typed" in wheel.namelist()
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# w2v_compress\n")
    assert len(metadata.get_all("Project-URL", [])) >= 2
    trains = [line for line in metadata.get_all("Requires-Dist", []) if line.startswith(("ve-fairseq", "editdistance"))]
    assert len(trains) == 2
    assert all("platform_machine" in line and "python_version" in line for line in trains)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (w2v_compress.__version__, "MIT")
    assert len(citation["references"]) == 2


def test_a_wheel_has_the_recipes_where_the_command_says(published: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, str(wheel_of(published))], check=True, timeout=120)
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from w2v_compress.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path), "config-dir"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(done.stdout.removesuffix("\n"))
    assert folder == tmp_path / "w2v_compress" / "configs"
    contents = [
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        for root in (folder, ROOT / "configs")
    ]
    assert contents[0] == contents[1]
    assert any(file.suffix == ".yaml" for file in contents[0])


def test_a_clone_has_them_beside_the_package(run: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = run("config-dir")
    assert (status, out) == (0, f"{ROOT / 'configs'}\n")


def test_the_source_distribution_has_what_the_readme_names(published: Path) -> None:
    (file,) = published.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = {os.path.normpath(link) for link in re.findall(r"\]\((?!https:)([^)#]+)", readme)}
    named |= {"Makefile", "constraints.txt", "LICENSE", "CHANGELOG.md", "CITATION.cff", ".ci/run", "setup.py"}
    assert named - names == set()
    for folder in ("benchmarks", "configs", "docs", "examples", "tests", "w2v_compress"):
        ours = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
            and not any(part.startswith(("__pycache__", "out")) for part in path.relative_to(ROOT).parts)
        }
        assert ours - names == set()
