"""Query and key-value pooling by itself: which layers bear it, and whether factors per layer are worth their search.

    python examples/stochastic/pooling.py DIGITS_OUT    # an output folder of digits.py; an hour on 2 cores

Trains a model at points with factors of their own for each layer, with the data, the seeds and the learning rate of the
model of digits.py that samples S, Q and K, and for as many updates (4,000). For squeeze factors 1 and 2, `w2v-compress
search` looks for points on `valid`. On `dev`, each uniform point is compared with the best point of the search that
computes no more. Results are written to DIGITS_OUT/pooling.json and .md. Finished steps are skipped.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from w2v_compress.data.manifest import read_manifest
from w2v_compress.evaluation.machine import describe_machine
from w2v_compress.evaluation.point_search import search_points
from w2v_compress.evaluation.report import Table
from w2v_compress.files import write_json
from w2v_compress.papers.seeds import combined_cell, difference, mean_and_interval, rates, seed_interval
from w2v_compress.runtime.recognizer import Recognizer

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parent), str(HERE)]

from common import count_errors_in_parallel, print_heading, publish_tables, run_in_folder  # noqa: E402
from digits import ALL_POINTS, EXPERIMENT, OVER_ALL, TWICE  # noqa: E402
from experiment import Arm, Kind, Run, chosen_rate, continued, train_arms  # noqa: E402

LAYER_WISE = "sampled over S, Q, K, layer-wise"
ARM, UNIFORM_ARM = Arm(LAYER_WISE, TWICE), Arm(OVER_ALL, TWICE)
SQUEEZES = (1, 2)
POOLED = ("1,2", "2,1", "2,2")
"""Uniform pooling factors Q,K."""
POOLS = {"query_pool": "queries", "key_value_pool": "keys and values"}


def searched(run: Run, seed: int, squeeze: int) -> dict[str, Any]:
    """Search points for one model on `valid`; the result is cached in a file beside the model."""
    model = run.model(ARM.name, seed)
    cache = model.with_suffix(f".search-{squeeze}.json")
    if not cache.exists():
        recognizer = Recognizer.load(model, engine="torch", precision="fp32")
        found = search_points(recognizer, read_manifest(run.data, "valid"), squeeze, [1, 2])
        write_json(cache, found.to_dict())
    result: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))
    return result


def within(search: Mapping[str, Any], uniform: str) -> str:
    """Return the point of the search with the lowest loss among those that compute no more than `uniform`."""
    (limit,) = (each["macs_per_second"] for each in search["uniform"] if each["point"] == uniform)
    steps = [step for step in search["steps"] if step["macs_per_second"] <= limit]
    best: str = min(steps, key=lambda step: step["loss"])["point"]
    return best


def layer_costs(searches: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the increase of the loss by pooling each layer alone, over seeds, the cheapest first."""
    increases: dict[tuple[int, str], list[float]] = {}
    for search in searches:
        for cost in search["layers"]:
            increases.setdefault((cost["layer"], cost["pool"]), []).append(cost["loss_increase"])
    rows = [
        {"layer": layer, "pool": pool, "loss_increase": statistics.fmean(values), "over_seeds": seed_interval(values)}
        for (layer, pool), values in increases.items()
    ]
    return sorted(rows, key=lambda row: row["loss_increase"])


def run_all(out: Path) -> None:
    """Run all unfinished steps, then print and write the results."""
    run = continued(out, EXPERIMENT, {LAYER_WISE: Kind(("+task.layer_wise=true",), ALL_POINTS)}, OVER_ALL)
    rate = chosen_rate(out, OVER_ALL)
    train_arms(run, [ARM], {LAYER_WISE: rate})
    print_heading("Searching on valid")
    searches = {squeeze: [searched(run, seed, squeeze) for seed in run.seeds] for squeeze in SQUEEZES}
    print_heading("Evaluating on dev")
    files: dict[tuple[str, str], list[tuple[Path, str | None]]] = {}
    for squeeze in SQUEEZES:
        for uniform in (f"{squeeze},{pools}" for pools in POOLED):
            models = {arm.kind: [run.model(arm.name, seed) for seed in run.seeds] for arm in (ARM, UNIFORM_ARM)}
            files["uniform", uniform] = [(model, uniform) for model in models[LAYER_WISE]]
            files["trained at uniform points", uniform] = [(model, uniform) for model in models[OVER_ALL]]
            files["searched", uniform] = [
                (model, within(search, uniform))
                for model, search in zip(models[LAYER_WISE], searches[squeeze], strict=True)
            ]
    counts = count_errors_in_parallel(files, run.data, "dev")
    uniforms = [uniform for kind, uniform in files if kind == "uniform"]
    results = {
        "command": "python examples/stochastic/pooling.py DIGITS_OUT",
        "seeds": list(run.seeds),
        "learning_rate": rate,
        "layers": {str(squeeze): layer_costs(found) for squeeze, found in searches.items()},
        "points": {
            uniform: {
                "searched": [point for _, point in files["searched", uniform]],
                "wer": {kind: rates(runs) for (kind, point), runs in counts.items() if point == uniform},
                "difference": difference(counts["uniform", uniform], counts["searched", uniform]),
            }
            for uniform in uniforms
        },
        "machine": describe_machine(),
    }
    publish_tables(out / "pooling", results, tables(results))


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Return the results as two tables: the cost of each layer, and uniform against searched points."""
    lines = [
        [
            squeeze,
            str(cost["layer"]),
            POOLS[cost["pool"]],
            f"{cost['loss_increase']:+.4f}",
            "[{low:+.4f}, {high:+.4f}]".format(**cost["over_seeds"]) if cost["over_seeds"] else "one model",
        ]
        for squeeze, costs in results["layers"].items()
        for cost in costs
    ]
    layers = ("What pooling one layer costs", ["S", "layer", "pooled", "increase of the loss", "over seeds"], lines)
    lines = []
    for uniform, each in results["points"].items():
        means = [
            mean_and_interval(each["wer"][kind]["over_strings"])[0]
            for kind in ("trained at uniform points", "uniform", "searched")
        ]
        lines.append([uniform, *means, combined_cell(each["difference"])])
    columns = ["point", "WER, %, other model", "layer-wise model", "searched points", "searched minus uniform"]
    return [layers, ("Searched points against uniform ones", columns, lines)]


if __name__ == "__main__":
    run_in_folder(__doc__, run_all)
