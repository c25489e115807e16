"""Generate the reference pages from the code: the command line and the fairseq configuration."""

import dataclasses
import enum
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from tabulate import tabulate

from w2v_compress.cli.app import app

PROGRAM = "w2v-compress"
REGISTRIES = {"Models": "MODEL", "Criterions": "CRITERION", "Optimizers": "OPTIMIZER", "Tasks": "TASK"}
SETTINGS = ("Setting", "Type", "Default", "Meaning")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; line breaks in cells become spaces."""
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    return tabulate(cells, columns, tablefmt="pipe", disable_numparse=True)


def escape(text: str) -> str:
    """Escape what Markdown reads as markup in plain help text; code spans stay code spans."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        for character in "*_<>[]|":
            parts[index] = parts[index].replace(character, f"&#{ord(character)};")
    return "`".join(parts)


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (full name, command) for every verb below `command`, in the order of `--help`."""
    for verb, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield f"{name} {verb}", child
            yield from commands(child, f"{name} {verb}")


def command_line() -> str:
    """Return the Markdown of every verb with its arguments, options and defaults."""
    return "\n\n".join(_command(name, command) for name, command in commands(typer.main.get_command(app), PROGRAM))


def _command(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context)) + " [ARGUMENT...]" * command.allow_extra_args
    parts = [f"## `{name}`", escape(command.help or ""), f"```text\n{name} {usage}\n```"]
    for title, kind in (("Argument", "argument"), ("Option", "option")):
        parameters = [parameter for parameter in command.params if parameter.param_type_name == kind]
        records = [record for parameter in parameters if (record := parameter.get_help_record(context))]
        if records:
            parts.append(table((title, "Meaning"), [[f"`{label}`", escape(meaning)] for label, meaning in records]))
    return "\n\n".join(part for part in parts if part)


def modules(package: str) -> str:
    """Return mkdocstrings directives for every public module of `package`."""
    folder = importlib.import_module(package).__path__
    names = [module.name for module in pkgutil.iter_modules(folder) if not module.name.startswith("_")]
    return "\n\n".join(f"::: {package}.{name}" for name in names)


def configuration() -> str:
    """Return the Markdown of every configuration that the plugin registers with fairseq."""
    return "\n\n".join(
        f"## {title}\n\n" + "\n\n".join(_configuration(name, config) for name, config in registered(registry))
        for title, registry in REGISTRIES.items()
    )


def registered(registry: str) -> list[tuple[str, type]]:
    """Return (registry name, dataclass) for what w2v_compress registers in fairseq's `registry`."""
    for package in ("models", "tasks"):  # they patch fairseq's logging, so they come before fairseq
        importlib.import_module(f"w2v_compress.{package}")
    from fairseq import criterions, models, optim, tasks

    found = {
        "MODEL": models.MODEL_DATACLASS_REGISTRY,
        "CRITERION": criterions.CRITERION_DATACLASS_REGISTRY,
        "OPTIMIZER": optim.OPTIMIZER_DATACLASS_REGISTRY,
        "TASK": tasks.TASK_DATACLASS_REGISTRY,
    }[registry]
    classes = {name: config if isinstance(config, type) else type(config) for name, config in found.items()}
    return sorted((name, config) for name, config in classes.items() if config.__module__.startswith("w2v_compress."))


def _configuration(name: str, config: type) -> str:
    own, inherited = [], []
    for field in dataclasses.fields(config):
        if not field.name.startswith("_"):
            row = [f"`{field.name}`", _type(field.type), _default(field), escape(field.metadata.get("help") or "")]
            (own if _declared_here(config, field.name) else inherited).append(row)
    base = next(base for base in config.__mro__ if base.__module__.startswith("fairseq."))
    parts = [f"### `{name}`", table(SETTINGS, own)]
    if inherited:
        parts += [f"Settings of fairseq's `{base.__name__}`:", table(SETTINGS, inherited)]
    return "\n\n".join(parts)


def _declared_here(config: type, field: str) -> bool:
    """Return whether w2v_compress, not fairseq, declares `field`."""
    owner = next(base for base in config.__mro__ if field in inspect.get_annotations(base))
    return owner.__module__.startswith("w2v_compress.")


def _type(annotation: Any) -> str:
    if isinstance(annotation, str):
        return f"`{annotation}`"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{member.value}`" for member in annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return " or ".join(_type(member) for member in members)
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    name = annotation.__name__ if isinstance(annotation, type) and not typing.get_args(annotation) else str(annotation)
    return f"`{name.replace('typing.', '')}`"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()}`"
    if field.default in (dataclasses.MISSING, "???"):
        return "required"
    return "" if field.default in (None, "") else f"`{_literal(field.default)}`"


def _literal(value: Any) -> str:
    value = value.value if isinstance(value, enum.Enum) else value
    return str(value).lower() if isinstance(value, bool) else str(value)
