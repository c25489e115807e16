"""Packaging. Tool settings are in pyproject.toml, the exact versions that were tested in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """`__version__` of the package, read as text: importing it would need its dependencies."""
    source = (ROOT / "w2v_compress" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('w2v_compress/__init__.py has no line `__version__ = "..."`')
    return match.group(1)


# fairseq 0.12.2 of PyPI cannot be imported on Python 3.11. ve-fairseq is the same code mended, as wheels for
# x86-64 Linux only; fairseq-fixed builds from source elsewhere. Both are imported as `fairseq`.
ON_X86_LINUX = "sys_platform == 'linux' and platform_machine == 'x86_64'"
ELSEWHERE = "sys_platform != 'linux' or platform_machine != 'x86_64'"

PLOT = ["matplotlib>=3.8"]
ENERGY = ["codecarbon>=3.3,<4"]  # evaluation/energy.py reads which of the tracker's meters is in use
SLURM = ["hydra-submitit-launcher>=1.2"]
ONNX = ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.22"]
OPENVINO = ["openvino>=2025.3"]
TRANSFORMERS = ["transformers>=5,<6"]
LM = ["flashlight-text>=0.0.7"]  # KenLM is part of its wheels
PEERS = [*ONNX, *OPENVINO, *TRANSFORMERS, "torchao>=0.18"]  # what `benchmark` compares with
# setuptools: tests install copies
TOOLS = ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.6", "mypy>=1.11", "setuptools>=70.1"]
TEST = [*TOOLS, *PLOT, *SLURM, *PEERS, *LM]

setup(
    name="w2v-compress",
    version=version(),
    description="Small, fast and elastic wav2vec 2.0 speech recognizers: a fairseq plugin and a runtime without it",
    author="w2v_compress contributors",
    license="MIT",
    packages=find_packages(include=["w2v_compress", "w2v_compress.*"]),
    package_data={"w2v_compress": ["py.typed"]},
    zip_safe=False,  # fairseq imports the models of its `common.user_dir` from files
    python_requires=">=3.11,<3.13",
    install_requires=[
        f"ve-fairseq==0.12.3; {ON_X86_LINUX}",
        f"fairseq-fixed==0.12.3.1; {ELSEWHERE}",
        "hydra-core>=1.3.2,<1.4",  # 1.4 drops the schema matching that fairseq needs
        "omegaconf>=2.3,<2.4",
        "torch>=2.6",  # the first whose restricted unpickler is sound (CVE-2025-32434) and takes named stand-ins
        "numpy>=1.26",
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "editdistance>=0.8",
        "sentencepiece>=0.2",
        "safetensors>=0.4",
        "rich>=13",
        "typer>=0.12",
    ],
    extras_require={
        "plot": PLOT,
        "energy": ENERGY,
        "slurm": SLURM,
        "onnx": ONNX,
        "openvino": OPENVINO,
        "transformers": TRANSFORMERS,
        "lm": LM,
        "peers": PEERS,
        "test": TEST,
        "dev": TEST,
    },
    entry_points={"console_scripts": ["w2v-compress = w2v_compress.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
