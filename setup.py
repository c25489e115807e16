"""Packaging. Tool settings are in pyproject.toml, the exact versions that were tested in constraints.txt."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


COPIED = {"configs": "configs", "examples/models": "shipped_models"}
"""Folders outside the package, and their names in it."""


class BuildWithFolders(build_py):
    """Copy configs and models into the package of a wheel; an editable install uses those of the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for folder, name in COPIED.items():
                if (ROOT / folder).is_dir():
                    shutil.copytree(ROOT / folder, Path(self.build_lib, "w2v_compress", name), dirs_exist_ok=True)


def version() -> str:
    """Read the version of the package as text: importing the package would need its dependencies."""
    source = (ROOT / "w2v_compress" / "version.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('w2v_compress/version.py has no line `__version__ = "..."`')
    return match.group(1)


# Training needs fairseq. fairseq 0.12.2 on PyPI cannot be imported on Python 3.11. ve-fairseq is the same code with
# fixes, and has wheels for these platforms only. On other platforms, models can be run, quantized, evaluated and
# exported, but not trained.
TRAINING_PLATFORM = "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.13'"

PLOT = ["matplotlib>=3.8"]
ENERGY = ["codecarbon>=3.3,<4"]  # papers/energy.py reads which meter the tracker uses
SLURM = ["hydra-submitit-launcher>=1.2"]
ONNX = ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.22"]
OPENVINO = ["openvino>=2026.4"]
# OpenVINO is the default engine on CPUs where it has wheels. Elsewhere torch is used.
OPENVINO_PLATFORM = (
    "(sys_platform == 'linux' and (platform_machine == 'x86_64' or platform_machine == 'aarch64')) or "
    "(sys_platform == 'win32' and platform_machine == 'AMD64') or "
    "(sys_platform == 'darwin' and platform_machine == 'arm64')"
)
TRANSFORMERS = ["transformers>=5,<6"]
LM = ["flashlight-text>=0.0.7"]  # its wheels include KenLM
# The runtimes that `benchmark` compares with.
PEERS = [*ONNX, *OPENVINO, *TRANSFORMERS, "torchao>=0.18", "nncf>=3", "ctranslate2>=4.5"]
# Tests need setuptools and twine to build and install the published distributions.
CHECKS = ["ruff>=0.6", "mypy>=1.11", "pre-commit>=4"]
TOOLS = [*CHECKS, "hypothesis>=6.100", "pytest>=8", "pytest-xdist>=3.6", "setuptools>=77", "twine>=6.1"]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"]
TEST = [*TOOLS, *PLOT, *SLURM, *PEERS, *LM]

setup(
    name="w2v-compress",
    version=version(),
    description="Small, fast and elastic wav2vec 2.0 speech recognizers: a fairseq plugin and a runtime without it",
    author="w2v_compress contributors",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="MIT",
    license_files=["LICENSE"],
    project_urls={
        "Paper: Shrinking Bigfoot": "https://arxiv.org/abs/2103.15760",
        "Paper: stochastic wav2vec 2.0": "https://arxiv.org/abs/2204.11934",
        "fairseq": "https://github.com/facebookresearch/fairseq",
    },
    keywords="speech recognition, wav2vec 2.0, fairseq, distillation, quantization, model compression",
    cmdclass={"build_py": BuildWithFolders},
    packages=find_packages(include=["w2v_compress", "w2v_compress.*"]),
    package_data={"w2v_compress": ["py.typed"]},
    zip_safe=False,  # fairseq imports the modules of `common.user_dir` from files
    python_requires=">=3.11",
    install_requires=[
        f"ve-fairseq==0.12.3; {TRAINING_PLATFORM}",
        f"hydra-core>=1.3.2,<1.4; {TRAINING_PLATFORM}",  # hydra 1.4 removes the schema matching that fairseq needs
        f"omegaconf>=2.3,<2.4; {TRAINING_PLATFORM}",
        f"editdistance>=0.8; {TRAINING_PLATFORM}",  # fairseq computes the WER of validation with it
        "torch>=2.6",  # first version with a secure `weights_only` unpickler (CVE-2025-32434) and named safe globals
        "numpy>=1.26",
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "sentencepiece>=0.2",
        "safetensors>=0.4",
        f"{OPENVINO[0]}; {OPENVINO_PLATFORM}",
        "platformdirs>=4",
        "scipy>=1.15",
        "jiwer>=4",
        "tabulate>=0.9",
        "psutil>=5.9",
        "py-cpuinfo>=9",
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
        "docs": DOCS,
        "dev": [*TEST, *DOCS],
    },
    entry_points={"console_scripts": ["w2v-compress = w2v_compress.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
