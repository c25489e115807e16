"""Workers: responses, failures, and the measurements of the process."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import numpy as np
import psutil
import pytest

from w2v_compress.benchmark.peers import Runtime, Setting
from w2v_compress.benchmark.process import Worker, WorkerError, busy_processes, convert_for

MakeRuntime = Callable[..., Runtime]


def test_logits_of_a_batch_are_written(make_runtime: MakeRuntime, setting: Setting, audio: list[Path]):
    with closing(Worker(make_runtime("quiet"), setting)) as worker:
        responses = [worker.run(audio, setting.folder / "out.npz"), worker.run(audio)]
    assert all(response.seconds > 0 for response in responses)
    with np.load(setting.folder / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], [[0.5, -0.5], [-0.25, 0.25], [1, -1]])
        np.testing.assert_array_equal(arrays["arr_1"], [[2, -2]])


def test_only_the_run_is_timed(make_runtime: MakeRuntime, setting: Setting, audio: list[Path]):
    source = """
import time
now = [0]
time.perf_counter = lambda: now[0]
def spend(seconds):
    now[0] += seconds
load_array = np.load
np.load = lambda *arguments, **options: spend(100) or load_array(*arguments, **options)
def load(setting):
    spend(1000)
    return lambda waveforms: spend(len(waveforms)) or []
"""
    with closing(Worker(make_runtime("slow", source), setting)) as worker:
        assert [worker.run(audio).seconds, worker.run(audio[:1]).seconds] == [2, 1]


def test_printing_libraries_do_not_disturb_responses(make_runtime: MakeRuntime, setting: Setting, audio: list[Path]):
    source = """
import os
def load(setting):
    print("loading")
    def run(waveforms):
        os.write(1, b'{"seconds": 0}\\n')
        return []
    return run
"""
    with closing(Worker(make_runtime("loud", source), setting)) as worker:
        assert worker.run(audio).seconds > 0
    # In any order: Python buffers what it prints, and `os.write` does not.
    assert sorted(worker.log.read_text().splitlines()) == ["loading", '{"seconds": 0}']


def test_memory_is_that_of_the_worker_process(make_runtime: MakeRuntime, setting: Setting, audio: list[Path]):
    """The count of Linux in `getrusage` would start from the memory of the parent process."""
    source = """
def load(setting):
    held = []
    def run(waveforms):
        held.append(np.ones(10_000_000))
        return []
    return run
"""
    own = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with closing(Worker(make_runtime("growing", source), setting)) as worker:
        first, second = (worker.run(audio).peak_bytes for _ in range(2))
    assert first < own / 2
    assert second - first == pytest.approx(80e6, rel=0.1)


def test_spinning_threads_use_idle_processor_time(make_runtime: MakeRuntime, setting: Setting, audio: list[Path]):
    spinning = """
import threading
def spin():
    while True:
        pass
def load(setting):
    threading.Thread(target=spin, daemon=True).start()
    return lambda waveforms: []
"""
    busy = {}
    for runtime in (make_runtime("quiet"), make_runtime("spinning", spinning)):
        with closing(Worker(runtime, setting)) as worker:
            worker.run(audio)
            time.sleep(0.3)
            response = worker.run(audio)
        assert response.idle_seconds > 0.1  # less than 0.3: on busy cores the worker becomes idle late
        busy[runtime.name] = response.idle_processor_seconds
    assert busy["spinning"] > 0.02
    assert busy["quiet"] < busy["spinning"] / 2  # relative: other processes may use the cores too


def test_threads_are_set_in_the_environment_and_the_setting(
    make_runtime: MakeRuntime, setting: Setting, audio: list[Path]
):
    source = """
import os
def load(setting):
    return lambda waveforms: [np.array([[int(os.environ["OMP_NUM_THREADS"]), setting.threads]])]
"""
    wanted = Setting(**vars(setting) | {"threads": 3})
    with closing(Worker(make_runtime("threads", source), wanted)) as worker:
        worker.run(audio, setting.folder / "out.npz")
    with np.load(setting.folder / "out.npz") as arrays:
        assert arrays["arr_0"].tolist() == [[3, 3]]


FAILURES = {
    "at loading": ("def load(setting):\n    raise ValueError('no such\\nnetwork')", "ValueError: no such network"),
    "in a run": ("def load(setting):\n    return lambda waveforms: 1 / 0", "ZeroDivisionError: division by zero"),
    "by a signal": (
        "import os\ndef load(setting):\n    return lambda waveforms: os.kill(os.getpid(), 9)",
        "its process was killed by signal 9",
    ),
    "with last words": (
        "import os\ndef load(setting):\n    print('out of luck', flush=True)\n    os._exit(3)",
        "its process ended with status 3: out of luck",
    ),
    "without a module": ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_is_one_line(kind: str, make_runtime: MakeRuntime, setting: Setting, audio: list[Path]):
    source, message = FAILURES[kind]
    with closing(Worker(make_runtime("failing", source), setting)) as worker:
        with pytest.raises(WorkerError) as caught:
            worker.run(audio)
        assert str(caught.value) == message
        with pytest.raises(WorkerError):  # and every later run fails
            worker.run(audio)


def test_a_worker_that_does_not_exit_is_killed(
    make_runtime: MakeRuntime, setting: Setting, audio: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("w2v_compress.benchmark.process.SHUTDOWN_SECONDS", 0.1)
    source = """
import atexit, time
def load(setting):
    atexit.register(time.sleep, 60)
    return lambda waveforms: []
"""
    worker = Worker(make_runtime("lingering", source), setting)
    worker.run(audio)
    began = time.monotonic()
    worker.close()
    assert time.monotonic() - began < 30


CONVERSIONS = (
    ("fine", "def convert(setting):\n    (setting.folder / 'made').touch()", None),
    (
        "impossible",
        "from w2v_compress import InputError\ndef convert(setting):\n    raise InputError('no such network')",
        "no such network",
    ),
    ("broken", "def convert(setting):\n    raise KeyError('x')", "KeyError: 'x'"),
    ("killed", "import os\ndef convert(setting):\n    os.kill(os.getpid(), 9)", "BrokenProcessPool: "),
)


@pytest.mark.parametrize(("name", "source", "reason"), CONVERSIONS, ids=[name for name, _, _ in CONVERSIONS])
def test_reason_of_a_failed_conversion(
    name: str, source: str, reason: str | None, make_runtime: MakeRuntime, setting: Setting
):
    found = convert_for(make_runtime(name, source), setting)
    assert found is None if reason is None else found is not None and found.startswith(reason)
    assert (setting.folder / "made").exists() == (name == "fine")


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_busy_processes_end_with_the_context(error: type[BaseException] | None):
    before = set(psutil.Process().children())
    with pytest.raises(error) if error else nullcontext(), busy_processes(2):
        processes = set(psutil.Process().children()) - before
        assert len(processes) == 2
        deadline = time.monotonic() + 30
        while min(process.cpu_times().user for process in processes) < 0.2:  # both compute
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if error:
            raise error
    assert not any(process.is_running() for process in processes)


def test_busy_processes_end_when_their_parent_is_killed():
    source = """
import os, psutil
from w2v_compress.benchmark.process import busy_processes
with busy_processes(1):
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -9
    (pid,) = done.stdout.split()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(int(pid)) and psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
