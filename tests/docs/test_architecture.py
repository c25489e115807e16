"""docs/architecture.md and its figure show the import rules that tests/test_package.py enforces."""

import ast
import re
import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "figures"


@pytest.fixture(scope="module")
def may_import() -> dict[str, set[str]]:
    """The import rules, read from the test that enforces them."""
    tree = ast.parse((ROOT / "tests" / "test_package.py").read_text(encoding="utf-8"))
    (rules,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["MAY_IMPORT"]
    )
    return {package: set(allowed.split()) for package, allowed in ast.literal_eval(rules).items()}


def below(package: str, arrows: set[tuple[str, str]]) -> set[str]:
    """Every package that can be reached from `package`."""
    direct = {end for start, end in arrows if start == package}
    return direct.union(*(below(other, arrows) for other in direct))


def test_the_table_lists_the_import_rules(may_import: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| .* \| (-|`[^|]*`) \|$", page, re.MULTILINE)
    assert {package: set(re.findall(r"\w+", allowed)) for package, allowed in rows} == may_import


def test_the_arrows_are_the_import_rules_without_shortcuts(may_import: dict[str, set[str]]) -> None:
    figure = ElementTree.parse(FIGURES / "packages.svg")
    paths = figure.iter("{http://www.w3.org/2000/svg}path")
    arrows = {(path.attrib["data-from"], path.attrib["data-to"]) for path in paths if "data-from" in path.attrib}
    direct = {
        (package, other)
        for package, allowed in may_import.items()
        for other in allowed
        if not any(other in below(between, arrows) for between in allowed)
    }
    assert arrows == direct
    assert all(allowed <= below(package, arrows) for package, allowed in may_import.items())


@pytest.mark.parametrize("name", ["packages.svg", "data_flow.svg"])
def test_the_figures_are_what_the_script_draws(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "draw.py"
    copy.write_text((FIGURES / "draw.py").read_text(encoding="utf-8"), encoding="utf-8")
    runpy.run_path(str(copy), run_name="__main__")
    assert (tmp_path / name).read_text(encoding="utf-8") == (FIGURES / name).read_text(encoding="utf-8")
