"""`common.user_dir` as a checkout, a wheel and an editable install, and with two copies of the package."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from w2v_compress import InputError, compat

ROOT = Path(__file__).resolve().parents[2]

IMPORT_AS_FAIRSEQ_DOES = """
import argparse, importlib.util, site, sys
# Remove the import hooks of an editable install of the package under test.
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
for name in [name for name in sys.modules if name.startswith("__editable__")]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
site.addsitedir(sys.argv[1])
folder = sys.argv[2] or importlib.util.find_spec("w2v_compress").submodule_search_locations[0]
from fairseq import utils
utils.import_user_module(argparse.Namespace(user_dir=folder))
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import MODEL_REGISTRY
import w2v_compress.compat
print(w2v_compress.compat.plugin.user_dir(), "student_ctc" in MODEL_REGISTRY, "ctc_distillation" in CRITERION_REGISTRY,
      utils.eval is w2v_compress.compat.pickles.evaluate)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the packaged files, since installing creates build folders."""
    folder = tmp_path / "a checkout"
    shutil.copytree(ROOT / "w2v_compress", folder / "w2v_compress", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.parametrize("how", ["checkout", "installed", "editable"])
def test_fairseq_registers_everything(tmp_path: Path, checkout: Path, how: str) -> None:
    site = tmp_path / "site"
    site.mkdir()
    if how != "checkout":
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        install += ["--target", str(site), *(["--editable"] if how == "editable" else []), str(checkout)]
        subprocess.run(install, check=True, timeout=120)
    package = (site if how == "installed" else checkout) / "w2v_compress"
    done = subprocess.run(
        [sys.executable, "-P", "-c", IMPORT_AS_FAIRSEQ_DOES, str(site), str(package) if how == "checkout" else ""],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip().splitlines()[-1] == f"{package} True True True"


def import_user_module(folder: Path) -> None:
    compat.apply()
    from fairseq import utils

    utils.import_user_module(argparse.Namespace(user_dir=str(folder)))


def test_a_second_copy_is_rejected(checkout: Path) -> None:
    with pytest.raises(InputError) as error:
        import_user_module(checkout / "w2v_compress")
    assert str(checkout) in str(error.value)
    assert str(compat.plugin.user_dir()) in str(error.value)
    assert "another copy" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_copy_through_a_link_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "w2v_compress").symlink_to(compat.plugin.user_dir())
    import_user_module(tmp_path / "w2v_compress")
    import_user_module(compat.plugin.user_dir())


def test_the_name_is_this_copy_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    import_user_module(Path("w2v_compress"))


def test_other_plugins_are_imported_by_fairseq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # fairseq adds the folder
    (tmp_path / "other_plugin").mkdir()
    (tmp_path / "other_plugin" / "__init__.py").write_text("LOADED = True\n")
    import_user_module(tmp_path / "other_plugin")
    assert sys.modules["other_plugin"].LOADED
    with pytest.raises(FileNotFoundError):
        import_user_module(tmp_path / "missing" / "w2v_compress")
