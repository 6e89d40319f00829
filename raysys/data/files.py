"""Arrow files that are either whole or absent, and memory-mapped when read."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa

from raysys.errors import UserError


def write_arrow(table: pa.Table, path: Path) -> str:
    """Write an uncompressed Arrow IPC file in one record batch and return the sha256 of its bytes."""
    return write_bytes(_serialize(table), path)


def write_bytes(content: bytes | pa.Buffer, path: Path) -> str:
    """Write a file under a temporary name, rename it into place, and return the sha256 of its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return hashlib.sha256(content).hexdigest()


def read_arrow(path: Path) -> pa.Table:
    """Map an Arrow IPC file; no bytes are read until they are used.

    Raises:
        UserError: the file is missing or is not an Arrow file.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not an Arrow file ({error}); run `raysys ingest` again") from None


def _serialize(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return sink.getvalue()
