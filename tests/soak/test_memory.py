"""Hours of audio, thousands of loads and of requests: memory stays bounded."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from w2v_compress.interop.fairseq_checkpoint import read_checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "written_before"
RATE = 16_000


def resident() -> int:
    return psutil.Process().memory_info().rss


def noise(path: Path, seconds: int) -> Path:
    """Write noise, minute by minute."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(seconds // 60):
            file.write(0.1 * generator.normal(size=60 * RATE))
    return path


PEAK = """
import sys
from w2v_compress.memory import peak_memory
from w2v_compress.runtime.recognizer import Recognizer
Recognizer.load(sys.argv[1], precision="fp32").transcribe(sys.argv[2])
print(peak_memory())
"""


def test_peak_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path) -> None:
    peaks = []
    for minutes in (10, 300):
        audio = noise(tmp_path / f"{minutes}.wav", 60 * minutes)
        command = [sys.executable, "-c", PEAK, str(FIXTURES / "large.safetensors"), str(audio)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    log_probs = (300 - 10) * 60 * 50 * 32 * 4  # what the longer transcript holds: (frames, units) in fp32
    assert peaks[1] - peaks[0] < 3 * log_probs + 50e6


REQUESTS = """
import sys
import numpy as np, psutil
from w2v_compress.runtime.recognizer import Recognizer
recognizer, generator = Recognizer.load(sys.argv[1], precision="fp32"), np.random.default_rng(0)
for request in range(1, 3001):
    recognizer.transcribe(0.1 * generator.normal(size=generator.integers(16_000, 80_000)), 16_000)
    if request in (1000, 3000):
        print(psutil.Process().memory_info().rss)
"""


def test_requests_do_not_leak() -> None:
    command = [sys.executable, "-c", REQUESTS, str(FIXTURES / "large.safetensors")]
    # oneDNN caches a kernel for each length of input; the default capacity of 1,024 takes thousands of requests to fill
    environment = os.environ | {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, after = map(int, done.stdout.split())
    assert after - before < 20e6


@pytest.mark.parametrize("name", ["wav2vec_ctc.pt", "student_ctc.pt"])
def test_loads_do_not_leak_in_any_number_of_threads(name: str) -> None:
    sizes = []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            results = pool.map(lambda _: read_checkpoint(FIXTURES / name).model.header, range(1_000))
            assert len({header.architecture for header in results}) == 1
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 50e6
