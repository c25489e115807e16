"""`make docs`: the site builds without a warning and without the network, with the reference made from the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import typer

from w2v_compress.cli.app import app

ROOT = Path(__file__).resolve().parents[2]


REGISTERED = (
    *("compressed_ctc", "student_ctc", "sew", "stochastic_sew", "pooled_transformer"),
    *("ctc_distillation", "intermediate_ctc", "muon", "compressed_pretraining", "compressed_finetuning"),
)
SETTINGS = ("init_checkpoint", "hidden_normalize", "inplace_distillation_weight", "learned_upsampling")
PYTHON_NAMES = {
    "recognizer": ("w2v_compress.load", "w2v_compress.runtime.recognizer.Recognizer.transcribe"),
    "compression": ("w2v_compress.nn.compression.CompressionPoint",),
    "model_file": ("w2v_compress.model_file.storage.write_model",),
    "evaluation": ("w2v_compress.evaluation.evaluate.evaluate",),
    "losses": ("w2v_compress.distillation.losses.kl_divergence",),
}
UNREACHABLE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def test_the_site_builds_without_warnings_or_network(tmp_path: Path) -> None:
    """One test, since the build takes most of the time; warnings are errors in mkdocs.yml."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, **UNREACHABLE, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert len(pages) > 20
    for name, page in pages.items():
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], name
    check_command_line(pages["reference/cli.html"])
    configuration = pages["reference/configuration.html"]
    assert [name for name in REGISTERED if f'<h3 id="{name}"><code>{name}</code>' not in configuration] == []
    assert [name for name in SETTINGS if f"<code>{name}</code>" not in configuration] == []
    for page, names in PYTHON_NAMES.items():
        assert [name for name in names if f'id="{name}"' not in pages[f"reference/python/{page}.html"]] == []


def check_command_line(page: str) -> None:
    """The page has every verb and option."""
    for name, command in typer.main.get_command(app).commands.items():
        assert f"<code>w2v-compress {name}</code>" in page
        for option in [option for parameter in command.params for option in parameter.opts if option[0] == "-"]:
            assert f"<code>{option}" in page, f"{name} {option}"
