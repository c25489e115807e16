"""Shards cover the work in order, journals go on after a kill, and merging names what is missing."""

import json
from pathlib import Path

import pytest

from w2v_compress.errors import InputError
from w2v_compress.shards import Journal, Shard, merge

JOB = {"verb": "test"}


@pytest.mark.parametrize(("items", "count"), [(10, 3), (3, 8), (0, 2), (8, 8), (1000, 7)])
def test_shards_cover_the_work_in_order(items: int, count: int) -> None:
    work = list(range(items))
    parts = [Shard(index, count).of(work) for index in range(1, count + 1)]
    assert [item for part in parts for item in part] == work
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "1/0", "-1/8", "1/8/2", "1/100001", "a/b", " 1/8"])
def test_invalid_shards(text: str) -> None:
    with pytest.raises(InputError, match="must be I/N, such as 3/8"):
        Shard.parse(text)


def run(folder: Path, shard: Shard, items: list[int], stop: int | None = None) -> None:
    part = shard.of(items)
    with Journal(folder, shard, JOB, len(part)) as journal:
        for item in part[len(journal.results) : stop]:
            journal.append({"item": item})


def test_results_are_joined_in_order(tmp_path: Path) -> None:
    work = list(range(10))
    for index in (3, 1, 2):
        run(tmp_path, Shard(index, 3), work)
    merged = merge(tmp_path)
    assert merged.job == JOB
    assert [result["item"] for result in merged.results] == work


@pytest.mark.parametrize("cut", range(1, 30, 3))
def test_a_killed_shard_goes_on(tmp_path: Path, cut: int) -> None:
    work, shard = list(range(10)), Shard(1, 1)
    run(tmp_path, shard, work, stop=6)
    path = tmp_path / shard.file_name
    path.write_bytes(path.read_bytes()[:-cut])  # killed while it wrote a line
    run(tmp_path, shard, work)
    assert [result["item"] for result in merge(tmp_path).results] == work


def test_missing_and_partial_shards_are_named(tmp_path: Path) -> None:
    work = list(range(20))
    for index in (1, 4, 8):
        run(tmp_path, Shard(index, 8), work)
    run(tmp_path, Shard(5, 8), work, stop=1)
    with pytest.raises(InputError) as caught:
        merge(tmp_path)
    message = "cannot be merged yet: no shard 2-3, 6-7 of 8, 5/8 has 1 of 2; run these shards to their end"
    assert str(caught.value) == f"{tmp_path}: {message}"


def test_results_of_another_job_are_not_mixed(tmp_path: Path) -> None:
    run(tmp_path, Shard(1, 2), [1, 2])
    with pytest.raises(InputError, match=r"is of another job; choose another folder, or remove it"):
        Journal(tmp_path, Shard(1, 2), {"verb": "other"}, 1)
    with Journal(tmp_path, Shard(2, 2), {"verb": "other"}, 1) as journal:
        journal.append({})
    with pytest.raises(InputError, match=r"shard-000002-of-000002.jsonl: is of another job than shard-000001"):
        merge(tmp_path)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run(tmp_path, Shard(1, 1), [1, 2])
    path = tmp_path / Shard(1, 1).file_name
    path.write_text(path.read_text().replace('{"item": 1}', '{"item": '))
    with pytest.raises(InputError, match=r"line 2 is damaged; remove it and those after it"):
        merge(tmp_path)
    path.write_text(json.dumps({"other": 1}) + "\n")
    with pytest.raises(InputError, match=r"line 1 does not describe a job"):
        merge(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no results of shards"):
        merge(tmp_path)
