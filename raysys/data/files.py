"""Arrow files that are either whole or absent, and memory-mapped when read."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from raysys.errors import UserError


def write_arrow(table: pa.Table, path: Path, compression: str | None = None) -> None:
    """Write an Arrow IPC file in one record batch, whole or not at all.

    Args:
        table: what to write.
        path: where.
        compression: lz4 or zstd for what is read as a whole; without it the file can be memory-mapped.
    """
    options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
    with (
        _partial(path) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as writer,
    ):
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)


def write_bytes(content: bytes | pa.Buffer, path: Path) -> None:
    """Write a file, whole or not at all."""
    with _partial(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """Give a name to write under, which is renamed into place when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    yield partial
    os.replace(partial, path)


class ArrowParts:
    """One Arrow file written part by part, so that the whole is never held in memory; absent until it is closed."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sink = pa.OSFile(str(self._partial), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)

    def add(self, table: pa.Table) -> None:
        """Append the rows as one record batch, an empty one too."""
        batches = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        for batch in batches:
            self._writer.write_batch(batch)

    def close(self) -> None:
        """Rename the file into place."""
        self._writer.close()
        self._sink.close()
        os.replace(self._partial, self._path)


def digest_of(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that never changes a second name; where the storage knows no links, copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow IPC file; no bytes are read until they are used.

    Raises:
        UserError: the file is missing or is not an Arrow file.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not an Arrow file ({error}); run `raysys ingest` again") from None
