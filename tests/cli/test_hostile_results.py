"""Files of results that are damaged on purpose end in one line, and control characters in names are escaped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., tuple[int, str, str]]
REPORT: dict[str, Any] = {"network": {"title": "tiny"}, "reference": "ours", "groups": [], "machine": {}}
RESULTS: dict[str, Any] = {"rate": "WER", "models": [], "comparisons": [], "speeds": [], "costs": []}

HOSTILE: dict[str, tuple[str, str | dict[str, Any], str]] = {
    "nesting": ("benchmark", '{"a":' * 100_000, "is not JSON (it is nested too deeply)"),
    "huge number": ("benchmark", f'{{"a": {"9" * 5000}}}', "is not JSON (Exceeds the limit"),
    "NaN": ("stochastic", '{"rate": NaN}', "is not JSON (NaN is not a finite number)"),
    "repeated name": ("stochastic", '{"rate": 1, "rate": 2}', "is not JSON (the name 'rate' is repeated)"),
    "list": ("stochastic", "[1]", "must be a JSON object"),
    "17 MB": ("stochastic", '{"a": "' + "a" * 17_000_000 + '"}', "has 17000009 bytes of JSON; at most 16777216"),
    "missing values of a benchmark": (
        "benchmark",
        REPORT | {"groups": [5]},
        "a value is missing or invalid (KeyError: 'processor')",
    ),
    "another file": ("bigfoot", REPORT, "has no `seed`; it must be a file of `w2v-compress tables bigfoot --json`"),
    "tables that are none": ("stochastic", {"tables": [{"title": "a"}]}, "a value is missing or invalid (KeyError"),
    "types of models": ("stochastic", RESULTS | {"models": 5}, "a value is missing or invalid (TypeError"),
    "missing values": ("stochastic", RESULTS | {"costs": [{}]}, "a value is missing or invalid (KeyError: 'point')"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_results(name: str, tmp_path: Path, run: Run) -> None:
    command, content, message = HOSTILE[name]
    path = tmp_path / "results\x1b[2J.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    status, _, err = run("tables", command, path, "--markdown", tmp_path / "tables.md")
    assert (status, err.count("\n")) == (1, 1), err
    assert rf"results\x1b[2J.json: {message}" in err
    assert not (tmp_path / "tables.md").exists()


def test_escapes_in_tables_are_harmless(
    tmp_path: Path, run: Run, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a long path would break the line within the escape
    path = Path("tiny\x1b]0;title\x07.safetensors")
    shutil.copy(tiny_path, path)
    results = Path("results.json")
    rate = {"over_strings": {"value": 0.1, "low": 0.1, "high": 0.1}}
    models = [{"model": "\x1b[2J", "point": "1,1,1", "rate": rate}]
    costs = [{"point": "1,1,1", "macs_per_second": 1, "milliseconds_per_second": 1}]
    results.write_text(json.dumps(RESULTS | {"models": models, "costs": costs}))
    for command in (["info", path], ["tables", "stochastic", results]):
        status, out, err = run(*command)
        assert (status, err) == (0, "")
        assert "\x1b" not in out
        assert "\\x1b" in out
