"""benchmarks/rebuild_results.py: the steps, what they store, and the tables that they replace."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = {
    # Of models, machines or engines that are gone; the pages say so.
    "benchmarks/results/benchmark_base_amx.json",
    "benchmarks/results/benchmark_digits.json",
    "benchmarks/results/benchmark_teacher.json",
    *(f"benchmarks/results/precision_digits_{precision}.json" for precision in ("fp32", "bf16", "int8")),
    *(f"benchmarks/results/quantization_quickstart_{subset}.json" for subset in ("dev", "test")),
    *(f"examples/quickstart/results/{name}.json" for name in ("best_on_dev", "first_teacher", "kl_alone")),
    # Trials of recipes; compare_elastic.py makes new ones.
    "examples/stochastic/results/trials_with_adam.json",
    *(
        f"examples/quickstart/results/elastic_trials{teacher}.json"
        for teacher in ("", "_first_teacher", "_first_teacher_muon", "_second_teacher")
    ),
}
"""Results that no step rebuilds."""


@pytest.fixture
def script(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "benchmarks" / "rebuild_results.py")


def test_each_stored_result_has_a_step_or_is_known_to_have_none(script: ModuleType) -> None:
    stored = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/results/*.json")}
    stored |= {str(path.relative_to(ROOT)) for path in (ROOT / "examples").glob("*/results/**/*.json")}
    rebuilt = {target for recipe in script.RECIPES.values() for target in recipe.files.values()}
    assert stored <= rebuilt | KEPT
    assert stored >= KEPT
    assert not rebuilt & KEPT


def test_commands_are_complete(script: ModuleType) -> None:
    for recipe in script.RECIPES.values():
        program, name = recipe.command.split()[:2]
        assert program == "w2v-compress" or (ROOT / name).is_file()
        assert script.placeholders(recipe.command) <= {"out", *script.DATA}


def test_a_step_without_its_data_is_left_out(script: ModuleType, tmp_path: Path) -> None:
    recipe = script.RECIPES["claims on digits"]
    folders = {"fsdd": None, "commonvoice": None}
    assert script.step_of("claims", recipe, tmp_path, folders).missing == "--fsdd"
    step = script.step_of("claims", recipe, tmp_path, folders | {"fsdd": tmp_path / "with space"})
    assert not step.missing
    assert step.command[2:] == [str(tmp_path / "with space"), "--out", str(tmp_path / "digits")]
    assert step.result == tmp_path / "digits" / "results.json"


def test_files_and_tables_are_replaced(script: ModuleType, tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    for folder in (root / "docs", root / "examples" / "demo" / "results", out / "demo"):
        folder.mkdir(parents=True)
    first, second = "| a | b |\n|---|---|\n| 1 | {} |\n", "| c |\n|---|\n| {} |\n"
    old, new = (f"{first.format(value)}\n{second.format(value)}" for value in (2, 3))
    (root / "examples" / "demo" / "results" / "results.md").write_text(old)
    (out / "demo" / "results.md").write_text(new)
    (out / "demo" / "results.json").write_text("{}")
    (root / "README.md").write_text(f"Text.\n\n{old}\nMore.\n")
    (root / "docs" / "page.md").write_text(f"Only one:\n\n{second.format(2)}\n")
    (root / "docs" / "other.md").write_text("No table.\n")
    recipe = script.Recipe("true", script.stored_in("examples/demo/results", "demo", "results.md", "results.json"))
    assert script.store(recipe, out, root) == ["README.md", "docs/page.md"]
    assert (root / "README.md").read_text() == f"Text.\n\n{new}\nMore.\n"
    assert (root / "docs" / "page.md").read_text() == f"Only one:\n\n{second.format(3)}\n"
    assert (root / "examples" / "demo" / "results" / "results.md").read_text() == new
    assert (root / "examples" / "demo" / "results" / "results.json").read_text() == "{}"


def test_the_page_of_results_shows_the_claims_as_the_results_have_them(
    load_script: Callable[[Path], ModuleType],
) -> None:
    claims = load_script(ROOT / "benchmarks" / "claims.py")
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert claims.markdown() in page
    assert claims.markdown() == (ROOT / "benchmarks" / "results" / "claims.md").read_text(encoding="utf-8")
    assert page.index(claims.markdown()) < page.index("## The paper's table")


def test_verdicts_of_claims(load_script: Callable[[Path], ModuleType]) -> None:
    claims = load_script(ROOT / "benchmarks" / "claims.py")
    smaller = claims.Factor("", "", lambda results: results["factor"], 3.5)
    assert [smaller.cells({"factor": factor})[2] for factor in (3.4, 3.5)] == ["fails", "holds"]
    better = claims.Difference("", "", lambda results: results, 0.01)
    intervals = [{"value": 0.0, "low": low, "high": high} for low, high in ((-0.01, 0.009), (-0.02, 0.02))]
    assert [better.cells(interval)[2] for interval in intervals] == ["holds", "undecided; 4.0x the data"]
    assert better.cells({"value": 0.03, "low": 0.02, "high": 0.04})[2] == "fails"


def test_the_point_that_decides_a_claim(load_script: Callable[[Path], ModuleType]) -> None:
    claims = load_script(ROOT / "benchmarks" / "claims.py")

    def comparison(point: str, low: float, high: float, verdict: str, **others: str) -> dict[str, object]:
        interval = {"value": (low + high) / 2, "low": low, "high": high}
        named = {"claim": "c", "model": "m", "margin": 0.01} | others
        return {**named, "point": point, "interval": interval, "verdict": verdict}

    rows = [
        comparison("1,1,1", -0.02, 0.0, "holds"),
        comparison("2,1,1", -0.02, 0.008, "holds"),
        comparison("3,1,1", 0.0, 0.04, "undecided"),
        comparison("4,1,1", 0.015, 0.025, "fails"),
        comparison("4,2,2", 0.5, 0.6, "fails", claim="another"),
        comparison("2,2,2", 0.5, 0.6, "fails", model="another"),
    ]
    claim = claims.EveryPoint("", "", "c", "m")
    expected = {
        2: ["-0.60 [-2.00, 0.80] at 2,1,1", "< 1 points", "holds"],
        3: ["2.00 [0.00, 4.00] at 3,1,1", "< 1 points", "undecided; 4.0x the data"],
        6: ["2.00 [1.50, 2.50] at 4,1,1", "< 1 points", "fails"],
    }
    for count, cells in expected.items():
        assert claim.cells({"comparisons": rows[:count]}) == cells
    assert claims.EveryPoint("", "", "another").cells({"comparisons": rows})[0].endswith("at 4,2,2")


@pytest.mark.parametrize("name", ["bigfoot", "benchmark_base", "benchmark_large"])
def test_stored_tables_are_found_on_the_page_of_results(script: ModuleType, name: str) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    times = script.tables(script.markdown_of(ROOT / "benchmarks" / "results" / f"{name}.json"))[0]
    assert times.count("\n") > 8
    assert times in page


def test_finished_steps_are_skipped_and_failures_are_named(script: ModuleType, tmp_path: Path) -> None:
    steps = sys.modules["steps"]

    def appending(name: str, status: int = 0) -> object:
        command = f"open({str(tmp_path / name)!r}, 'a').write('x'); raise SystemExit({status})"
        return steps.Step(name, [sys.executable, "-c", command], tmp_path / name)

    jobs = [appending("first"), appending("second", status=3), steps.Step("third", [], tmp_path, missing="--fsdd")]
    finished: list[str] = []
    for _ in range(2):
        assert not steps.run_steps(jobs, tmp_path, "title", finish=lambda step: finished.append(step.name))
    assert ((tmp_path / "first").read_text(), (tmp_path / "second").read_text()) == ("x", "xx")
    assert finished == ["first"]
    states = json.loads((tmp_path / "state.json").read_text())
    assert states["first"]["state"] == "done"
    assert states["second"]["state"].startswith("failed with status 3: ")
    assert states["third"]["state"] == "left out: no --fsdd"
    assert steps.run_steps(jobs[:1], tmp_path / "new", "title", minutes=0)  # no time is no failure
    assert json.loads((tmp_path / "new" / "state.json").read_text())["first"]["state"] == "no time"


def test_the_command_runs_a_step(tmp_path: Path) -> None:
    """In a copy of the scripts, so that stored files stay as they are."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    (tmp_path / "README.md").touch()
    out = tmp_path / "out"
    command = [sys.executable, str(tmp_path / "benchmarks" / "rebuild_results.py"), "--out", str(out), "points"]
    listed = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True).stdout
    assert "points.py" in listed
    unknown = subprocess.run([*command, "nothing"], capture_output=True, text=True, check=False)
    assert unknown.returncode != 0
    assert "unknown step 'nothing'" in unknown.stderr
