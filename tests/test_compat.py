"""compat is the only package that touches the internals of fairseq and hydra, or patches torch's unpickler."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "w2v_compress"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "compat")

FOREIGN = ("fairseq", "fairseq_cli", "hydra")
UNPICKLER = {"_weights_only_unpickler", "safe_globals", "add_safe_globals", "clear_safe_globals"}
UNPICKLING = {"load", "serialization", "Unpickler"}
"""Attributes of torch and pickle that must not be assigned."""
PUBLIC = {"_name", "__file__", "__version__", "__name__"}
"""Underscored names that may be used; `_name` is the field of fairseq's configurations with the registered name."""


def is_private(name: str) -> bool:
    return name.startswith("_") and name not in PUBLIC


def root_and_attributes(node: ast.AST) -> tuple[str, list[str]]:
    """Return the root name and the attributes of an expression: `a.b[0].c` gives `a` and `["b", "c"]`."""
    attributes: list[str] = []
    while True:
        match node:
            case ast.Attribute(value=value, attr=name):
                attributes.insert(0, name)
                node = value
            case ast.Subscript(value=value):
                node = value
            case ast.Call(func=ast.Name(id="vars" | "getattr"), args=[value, *_]):
                node = value
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                return name.split(".")[0], attributes
            case ast.Name(id=name):
                return name, attributes
            case _:
                return "", attributes


def imported(tree: ast.AST, packages: tuple[str, ...]) -> set[str]:
    """Return the names that are imported from `packages`, and the variables that are assigned from them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias for alias in node.names if alias.name.split(".")[0] in packages]
            names |= {alias.asname or alias.name.split(".")[0] for alias in found}
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in packages:
            names |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):
            root, attributes = root_and_attributes(node.value)
            if root in names | set(packages) and attributes != ["__file__"]:
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def defined(tree: ast.AST) -> set[str]:
    """Return the names of functions, classes, variables and attributes that the module defines."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


def changes(tree: ast.AST) -> Iterator[tuple[str, list[str], int]]:
    """Yield the root, the attributes and the line of everything that is assigned, deleted or set by `setattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield *root_and_attributes(node), node.lineno
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith(("setattr", "delattr")):
            root, attributes = root_and_attributes(node.args[0])
            constant = node.args[1] if len(node.args) > 1 else None
            name = constant.value if isinstance(constant, ast.Constant) else "?"
            yield root, [*attributes, str(name)], node.lineno


def violations(source: str, own_names: set[str]) -> list[str]:
    """Return each line of `source` that touches internals; names in `own_names` are those of this package."""
    tree = ast.parse(source)
    foreign = imported(tree, FOREIGN)
    unpicklers = imported(tree, ("torch", "pickle"))
    lines = set()
    for root, attributes, line in changes(tree):
        if root in foreign or root in FOREIGN or (root in unpicklers and UNPICKLING & set(attributes)):
            lines.add(line)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if UNPICKLER & set(parts) or (parts[0] in FOREIGN and any(map(is_private, parts))):
                lines.add(node.lineno)
        elif isinstance(node, ast.Attribute):
            root, _ = root_and_attributes(node)
            # In a module that imports fairseq, a private attribute that this package does not define may be fairseq's.
            unknown = bool(foreign) and root not in unpicklers and not node.attr.startswith("__")
            theirs = root in foreign or (unknown and node.attr not in own_names)
            if node.attr in UNPICKLER or (is_private(node.attr) and theirs):
                lines.add(node.lineno)
    text = source.splitlines()
    return [f"line {line}: {text[line - 1].strip()}" for line in sorted(lines)]


OWN_NAMES = {name for path in MODULES for name in defined(ast.parse(path.read_text(encoding="utf-8")))}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_module_touches_internals(module: Path) -> None:
    assert violations(module.read_text(encoding="utf-8"), OWN_NAMES) == []


@pytest.mark.parametrize(
    "source",
    [
        "from fairseq import utils\nutils.move_to_cuda = print",
        "import fairseq.utils\nfairseq.utils.move_to_cuda = print",
        "from fairseq.models import BaseFairseqModel as Model\nModel.upgrade_state_dict = print",
        "from fairseq import utils\nmodule = utils\nmodule.move_to_cuda = print",
        "from fairseq import utils\nsetattr(utils, 'move_to_cuda', print)",
        "from fairseq import utils\ndel utils.move_to_cuda",
        "from fairseq import utils\nvars(utils)['move_to_cuda'] = print",
        "from fairseq import utils\nutils.__dict__.update(move_to_cuda=print)",
        "from fairseq.models import MODEL_REGISTRY\nMODEL_REGISTRY['wav2vec2'] = None",
        "import importlib\nimportlib.import_module('fairseq.utils').move_to_cuda = print",
        "def run():\n    from fairseq_cli import hydra_train\n    hydra_train.pre_main = print",
        "from hydra.core import global_hydra\nglobal_hydra.GlobalHydra.instance = print",
        "from fairseq_cli.hydra_train import _hydra_main",
        "from fairseq import _private",
        "from fairseq.logging.meters import MetersDict\nprint(MetersDict._DerivedMeter)",
        "from fairseq.models import Model\nclass Own(Model):\n    def run(self):\n        return self._get_lengths()",
        "from fairseq.optim import build\ndef run(optimizer):\n    optimizer._sync()",
        "from torch import _weights_only_unpickler",
        "import torch\ntorch._weights_only_unpickler._get_user_allowed_globals = dict",
        "import torch\ntorch.load = print",
        "import torch\ntorch.serialization.add_safe_globals([dict])",
        "import pickle\npickle.Unpickler.find_class = print",
    ],
)
def test_touching_internals_is_detected(source: str) -> None:
    assert len(violations(source, set())) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from pathlib import Path\nimport fairseq\nfolder = Path(fairseq.__file__).parent",
        "from fairseq.models import register\n@register('own')\nclass Own:\n    def run(self):\n        self.a = 1",
        "from fairseq.models import Model\nclass Own(Model):\n    def _run(self):\n        self._a = self._run()",
        "from fairseq.tasks import Task\ndef name_of(cfg):\n    return cfg._name",
        "import torch\ntorch._int_mm\ntorch.backends.mkldnn.enabled = False\ntorch.load('a', weights_only=True)",
    ],
)
def test_public_names_are_allowed(source: str) -> None:
    assert violations(source, defined(ast.parse(source))) == []
