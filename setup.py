"""Packaging. Tool settings are in pyproject.toml, the exact versions that were tested in constraints.txt."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """A wheel has configs/ inside the package, where `w2v-compress config-dir` finds it; an editable install, the
    clone's.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "configs", Path(self.build_lib, "w2v_compress", "configs"), dirs_exist_ok=True)


def version() -> str:
    """`__version__` of the package, read as text: importing it would need its dependencies."""
    source = (ROOT / "w2v_compress" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise RuntimeError('w2v_compress/__init__.py has no line `__version__ = "..."`')
    return match.group(1)


# Training needs fairseq. Its 0.12.2 on PyPI cannot be imported on Python 3.11; ve-fairseq is the same code mended, and
# has wheels for these platforms alone. Elsewhere models are run, quantized, evaluated and exported, and not trained.
TRAINS = "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.13'"

PLOT = ["matplotlib>=3.8"]
ENERGY = ["codecarbon>=3.3,<4"]  # evaluation/energy.py reads which of the tracker's meters is in use
SLURM = ["hydra-submitit-launcher>=1.2"]
ONNX = ["onnx>=1.19", "onnxscript>=0.5", "onnxruntime>=1.22"]
OPENVINO = ["openvino>=2025.3"]
TRANSFORMERS = ["transformers>=5,<6"]
LM = ["flashlight-text>=0.0.7"]  # KenLM is part of its wheels
PEERS = [*ONNX, *OPENVINO, *TRANSFORMERS, "torchao>=0.18"]  # what `benchmark` compares with
# setuptools and twine: tests build and install what is published
TOOLS = ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.6", "mypy>=1.11", "setuptools>=77", "twine>=6.1"]
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
    cmdclass={"build_py": BuildWithConfigs},
    packages=find_packages(include=["w2v_compress", "w2v_compress.*"]),
    package_data={"w2v_compress": ["py.typed"]},
    zip_safe=False,  # fairseq imports the models of its `common.user_dir` from files
    python_requires=">=3.11",
    install_requires=[
        f"ve-fairseq==0.12.3; {TRAINS}",
        f"hydra-core>=1.3.2,<1.4; {TRAINS}",  # 1.4 drops the schema matching that fairseq needs
        f"omegaconf>=2.3,<2.4; {TRAINS}",
        f"editdistance>=0.8; {TRAINS}",  # fairseq counts the word errors of validation with it
        "torch>=2.6",  # the first whose restricted unpickler is sound (CVE-2025-32434) and takes named stand-ins
        "numpy>=1.26",
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "sentencepiece>=0.2",
        "safetensors>=0.4",
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
        "dev": TEST,
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
