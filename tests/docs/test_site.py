"""`make docs`: the site builds without a warning and without the network, with the reference made from the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from w2v_compress.cli.app import app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; warnings are errors there."""
    folder = tmp_path_factory.mktemp("site")
    unreachable = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **unreachable, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(site: Path, page: str) -> str:
    return (site / page).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_line_page_has_every_verb_and_option(site: Path) -> None:
    page = text_of(site, "reference/cli.html")
    for name, command in typer.main.get_command(app).commands.items():
        assert f"<code>w2v-compress {name}</code>" in page
        for option in [option for parameter in command.params for option in parameter.opts if option[0] == "-"]:
            assert f"<code>{option}" in page, f"{name} {option}"


@pytest.mark.slow
def test_the_configuration_page_has_every_registered_setting(site: Path) -> None:
    page = text_of(site, "reference/configuration.html")
    registered = ("compressed_ctc", "student_ctc", "sew", "stochastic_sew", "pooled_transformer", "ctc_distillation")
    for name in (*registered, "compressed_pretraining", "compressed_finetuning"):
        assert f'<h3 id="{name}"><code>{name}</code>' in page
    for setting in ("init_checkpoint", "hidden_normalize", "inplace_distillation_weight", "learned_upsampling"):
        assert f"<code>{setting}</code>" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("recognizer", "w2v_compress.load"),
        ("recognizer", "w2v_compress.runtime.recognizer.Recognizer.transcribe"),
        ("compression", "w2v_compress.nn.compression.CompressionPoint"),
        ("model_file", "w2v_compress.model_file.storage.write_model"),
        ("evaluation", "w2v_compress.evaluation.evaluate.evaluate"),
        ("losses", "w2v_compress.distillation.losses.kl_divergence"),
    ],
)
def test_the_python_pages_have_the_public_names(site: Path, page: str, name: str) -> None:
    assert f'id="{name}"' in text_of(site, f"reference/python/{page}.html")


@pytest.mark.slow
def test_pages_load_nothing_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8"))
        assert not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], page.name
