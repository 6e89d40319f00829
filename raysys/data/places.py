"""Places that files lie in: local paths, and URIs of any filesystem that pyarrow or fsspec has a driver for.

A URI may carry options behind a question mark, as pyarrow reads them (`s3://bucket/logs?region=eu-west-1`); they stay
with every file that is found below it. Credentials come from the environment, as each filesystem's own tools take them.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import quote, urlsplit

import pyarrow as pa
from pyarrow import fs

from raysys.errors import UserError

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_WEB = ("http://", "https://")
_MAGIC = "*?["
_BUFFER_BYTES = 8 << 20  # of a remote stream: each read of one is a request


@dataclass(frozen=True)
class File:
    """A file of a source: enough to tell later whether it is still the same."""

    path: str
    """An absolute local path, or a URI with its options."""
    size: int
    """Bytes; 0 where a web server does not say."""
    modified: str
    """ISO time in UTC, or an empty text where the place does not say."""


class Folder:
    """A directory at any place, for files that are written whole or not at all."""

    PARTIAL = ".partial"
    """Ends the names of files that are being written, or that somebody was killed over."""

    def __init__(self, place: "_Place") -> None:
        self._place = place
        self.path = place.name + place.options

    @staticmethod
    def open(path: str) -> "Folder":
        """Find a directory, or make it.

        Raises:
            UserError: it is a file, or its filesystem has no driver here or refuses.
        """
        place = _resolve(path)
        with _refusals(path):
            if place.filesystem.get_file_info(place.inner).type == fs.FileType.File:
                raise UserError(f"path: {path}: is a file; give a directory")
            place.filesystem.create_dir(place.inner, recursive=True)
        return Folder(place)

    def names(self) -> list[str]:
        """Return the names of the files and directories in it, hidden ones too."""
        with _refusals(self.path):
            found = self._place.filesystem.get_file_info(fs.FileSelector(self._place.inner, allow_not_found=True))
        return sorted(info.base_name for info in found)

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        with _refusals(self.path):
            return bool(self._place.filesystem.get_file_info(self._at(name)).is_file)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        with self.read_random(name) as file:
            return file.read()

    def read_random(self, name: str) -> pa.NativeFile:
        """Open a file for reading."""
        with _refusals(self.path):
            return self._place.filesystem.open_input_file(self._at(name))

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file under another name, then rename it; where two write the same one, either's may stay."""
        filesystem, partial = self._place.filesystem, self._at(f".{name}.{uuid.uuid4().hex}{self.PARTIAL}")
        with _refusals(self.path):
            with filesystem.open_output_stream(partial) as stream:
                stream.write(content)
            try:
                filesystem.move(partial, self._at(name))
            except FileNotFoundError:  # somebody who found the whole file took the other one for a dead worker's
                if not self.has(name):
                    raise

    def remove(self, name: str) -> None:
        """Remove a file."""
        with _refusals(self.path):
            self._place.filesystem.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._place.inner.rstrip('/')}/{name}"


@dataclass(frozen=True)
class _Place:
    """A path resolved: where its filesystem finds it, and how the files below it are called from outside."""

    filesystem: fs.FileSystem
    inner: str
    name: str
    options: str
    escape: Callable[[str], str]

    def file(self, info: fs.FileInfo, root: str, name: str) -> File:
        relative = info.path[len(root) :].strip("/")
        path = f"{name.rstrip('/')}/{self.escape(relative)}" if relative else name
        size = info.size
        if size is None:  # the listing of a web server names its files and nothing else
            size = self.filesystem.get_file_info(info.path).size or 0
        return File(path + self.options, size, info.mtime.isoformat() if info.mtime else "")


def list_files(path: str) -> list[File]:
    """Return the files that a file, directory (with all below it) or glob stands for, sorted by path.

    Hidden files and markers (`.name`, `_name`, and all below such directories) are left out, unless the path names one
    file. In a glob, `**` stands for any number of directories, and a directory that matches for all below it; in a URI,
    `?` begins the options and is no wildcard. Local paths come back absolute, for tasks run in other directories.

    Raises:
        UserError: nothing is there, or its filesystem has no driver here or refuses.
    """
    place = _resolve(path)
    with _refusals(path):
        found = sorted(_found(place), key=lambda file: file.path)
    if not found:
        raise UserError(f"path: {path}: no such file or directory, or nothing in it; check the path (RAYSYS_DATA?)")
    return found


def open_random(path: str) -> pa.NativeFile:
    """Open a file for reading at any place.

    A web server that cannot send parts of a file sends it whole, into memory.

    Raises:
        UserError: the file is missing, or its filesystem has no driver here or refuses.
    """
    place = _resolve(path)
    with _refusals(path):
        if path.startswith(_WEB) and not _driver(place).info(place.inner).get("partial"):
            return pa.BufferReader(_driver(place).cat_file(place.inner))
        return place.filesystem.open_input_file(place.inner)


def open_text(path: str) -> pa.NativeFile:
    """Open a file for reading from its begin; .gz, .zst and .bz2 are unpacked on the way.

    Raises:
        UserError: the file is missing, or its filesystem has no driver here or refuses.
    """
    place = _resolve(path)
    compression = _compression(path)
    with _refusals(path):
        if path.startswith(_WEB):  # a plain stream: not every server can send parts of a file
            stream = pa.PythonFile(_driver(place).open(place.inner, "rb", block_size=0), mode="r")
            return pa.CompressedInputStream(stream, compression) if compression else stream
        buffer = _BUFFER_BYTES if "://" in path else None
        return place.filesystem.open_input_stream(place.inner, compression=compression, buffer_size=buffer)


def can_be_cut(path: str) -> bool:
    """Tell whether parts of a file can be read by themselves: plain files, and none of a web server."""
    return _compression(path) is None and not path.startswith(_WEB)


def is_compressed(path: str) -> bool:
    """Tell by its suffix whether `open_text` unpacks a file."""
    return _compression(path) is not None


def _compression(path: str) -> str | None:
    name = path.partition("?")[0] if "://" in path else path
    return _COMPRESSIONS.get(os.path.splitext(name)[1])


def _resolve(path: str) -> _Place:
    if "://" not in path:
        inner = os.path.abspath(path)
        return _Place(fs.LocalFileSystem(), inner, inner, "", str)
    if urlsplit(path).password:
        raise UserError(
            "path: a URI with a password in it; paths are kept in datasets: give credentials by the environment"
        )
    name, mark, options = path.partition("?")
    try:
        filesystem, inner = fs.FileSystem.from_uri(quote(_patient(path), safe=":/?#@!$&'()*+,;=%~"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if path.startswith("file://"):
            raise UserError(f"path: {path}: {_first_line(error)}") from None
        filesystem, inner = _by_fsspec(path)
        return _Place(filesystem, inner, path, "", str)
    return _Place(filesystem, inner, name, mark + options, quote)


def _patient(path: str) -> str:
    """Ask Google's driver to give up after a minute: by itself it tries again for a quarter of an hour."""
    if not path.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in path:
        return path
    return f"{path}{'&' if '?' in path else '?'}retry_limit_seconds=60"


def _by_fsspec(path: str) -> tuple[fs.FileSystem, str]:
    from fsspec.core import url_to_fs

    with _refusals(path):
        driver, inner = url_to_fs(path)
    return fs.PyFileSystem(fs.FSSpecHandler(driver)), inner


def _driver(place: _Place) -> "fsspec.AbstractFileSystem":  # type: ignore[name-defined]  # noqa: F821
    return place.filesystem.handler.fs


def _found(place: _Place) -> Iterator[File]:
    info = place.filesystem.get_file_info(place.inner)
    is_index = place.name.startswith(_WEB) and place.name.endswith("/")  # a page that lists files is a file to the web
    if info.is_file and not is_index:
        yield place.file(info, place.inner, place.name)
        return
    parts = place.inner.split("/")
    first = next((index for index, part in enumerate(parts) if any(mark in part for mark in _MAGIC)), len(parts))
    if info.type != fs.FileType.NotFound:  # brackets may be part of a name
        first = len(parts)
    wanted = parts[first:]
    root = "/".join(parts[:first]).rstrip("/") or "/"
    name = "/".join(place.name.split("/")[: -len(wanted)]) if wanted else place.name
    for info in _expand(place.filesystem, root, wanted):
        yield place.file(info, root, name)


def _expand(filesystem: fs.FileSystem, root: str, wanted: list[str]) -> Iterator[fs.FileInfo]:
    """Yield the files below a directory whose names match one wildcard after another, and all where none is left."""
    everything = not wanted or wanted[0] == "**"
    # a slash for the web's drivers, which tell a directory by it
    selector = fs.FileSelector(root if "://" not in root else f"{root}/", allow_not_found=True, recursive=everything)
    for info in filesystem.get_file_info(selector):
        names = info.path[len(root) :].strip("/").split("/")
        if any(name.startswith((".", "_")) for name in names):
            continue
        if everything:
            if info.is_file and _matches(wanted, names):
                yield info
        elif fnmatchcase(names[0], wanted[0]):
            if info.type == fs.FileType.Directory:
                yield from _expand(filesystem, info.path.rstrip("/"), wanted[1:])
            elif len(wanted) == 1:
                yield info


def _matches(wanted: list[str], names: list[str]) -> bool:
    if not wanted or not names:
        return not wanted
    if wanted[0] == "**":
        return _matches(wanted[1:], names) or _matches(wanted, names[1:])
    return fnmatchcase(names[0], wanted[0]) and _matches(wanted[1:], names[1:])


@contextlib.contextmanager
def _refusals(path: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every driver has exceptions of its own
        raise UserError(f"path: {path}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
