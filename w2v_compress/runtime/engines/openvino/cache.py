"""Compiled graphs on disk, without weights, which makes a later start faster."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import platformdirs

from ....errors import InputError
from ....files import replacing
from ....model_file.tensor_file import TensorFile
from ....processor import processor
from ....version import __version__
from . import graph

FOLDER_VARIABLE = "W2V_COMPRESS_CACHE"
"""Environment variable that names another folder."""
MAX_BYTES = 1 << 30
"""Size of the folder above which the entries unused for longest are deleted."""
MAX_ENTRY_SHARE = 0.25
"""Largest size of an entry relative to the model file. Graphs whose weights OpenVINO converts, such as those of fp16
files, contain the weights, and would take more time to read than to compile."""
DIGEST_BYTES = 32
SAMPLE_BYTES = 64


class GraphCache:
    """Compiles graphs of one model file, or loads those compiled before."""

    def __init__(self, core: openvino.Core, file: TensorFile, options: dict[str, Any], *, enabled: bool = True) -> None:
        """Use `options` of OpenVINO for all graphs; without `enabled`, nothing is read from or written to disk."""
        self._core = core
        self._file = file
        self._options = options
        self._enabled = enabled
        self._model_digest = _digest_of_model(file) if enabled else ""

    def compiled(self, name: str, build: Callable[[], openvino.Model]) -> openvino.CompiledModel:
        """Return the compiled graph `name`, which `build` builds if it is not in the cache.

        Entries of another model, precision, processor or version, and damaged ones, are ignored and written anew. A
        cache that cannot be written is no error.
        """
        if not self._enabled:
            return self._core.compile_model(build(), "CPU", self._options)
        path = self._path(name)
        options = self._options | {"CACHE_MODE": "OPTIMIZE_SIZE"}
        blob = _read(path)
        if blob is not None and self._file.is_in_place():  # OpenVINO reads the weights from the file at its path
            with contextlib.suppress(RuntimeError):  # an entry that this version of OpenVINO rejects
                loaded = self._core.import_model(
                    blob, "CPU", options | {"WEIGHTS_PATH": str(self._file.path.resolve())}
                )
                with contextlib.suppress(OSError):
                    os.utime(path)  # marks the entry as used
                return loaded
        compiled = self._core.compile_model(build(), "CPU", options)
        with contextlib.suppress(OSError, InputError):
            self._write(path, _exported(compiled))
        return compiled

    def _path(self, name: str) -> Path:
        key = repr(
            (
                self._model_digest,
                name,
                sorted((option, str(value)) for option, value in self._options.items()),
                openvino.get_version(),
                __version__,
                _digest_of_code(),
                (processor().name, sorted(processor().flags)),
            )
        )
        return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.graph"

    def _write(self, path: Path, blob: bytes) -> None:
        if len(blob) > MAX_ENTRY_SHARE * self._file.path.stat().st_size:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(hashlib.sha256(blob).digest() + blob)
        _delete_oldest(path.parent)


def cache_folder() -> Path:
    """Return the folder of compiled graphs: `$W2V_COMPRESS_CACHE`, or by the convention of the operating system."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else platformdirs.user_cache_path("w2v-compress") / "graphs"


def _read(path: Path) -> bytes | None:
    """Return the graph stored at `path`, or None if there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return blob if hashlib.sha256(blob).digest() == digest else None


def _exported(compiled: openvino.CompiledModel) -> bytes:
    exported = compiled.export_model()
    return exported if isinstance(exported, bytes) else exported.getvalue()


def _digest_of_model(file: TensorFile) -> str:
    """Return a digest of the header and of the beginning of every tensor, which training changes.

    Reading all of a large file would take longer than loading a graph from the cache saves.
    """
    digest = hashlib.sha256(file.header.to_json().encode())
    for name, place in sorted(file.places.items()):
        digest.update(f"{name} {place}".encode())
        digest.update(file.content[place.offset : place.offset + min(place.size, SAMPLE_BYTES)].tobytes())
    return digest.hexdigest()


def _digest_of_code() -> str:
    """Return a digest of the code that builds the graphs."""
    return hashlib.sha256(Path(graph.__file__).read_bytes()).hexdigest()


def _delete_oldest(folder: Path) -> None:
    """Delete the entries that were unused for longest until the folder has at most `MAX_BYTES`."""
    entries = sorted(folder.glob("*.graph"), key=lambda path: path.stat().st_mtime)
    size = sum(path.stat().st_size for path in entries)
    for path in entries[:-1]:
        if size <= MAX_BYTES:
            return
        size -= path.stat().st_size
        path.unlink(missing_ok=True)
