"""The fixture that imports scripts of the examples as modules."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def load_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], ModuleType]:
    """load_script(path) imports a script, with its folder and that of the examples on the module path."""

    def load(path: Path) -> ModuleType:
        for name, module in list(sys.modules.items()):  # other examples have modules of the same names
            if EXAMPLES in Path(getattr(module, "__file__", None) or "").parents:
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "path", [str(path.parent), str(EXAMPLES), *sys.path])
        name = f"{path.parent.name}_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
