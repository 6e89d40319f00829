"""A line per user (`user item item ...`) or per event (`user item`), in time order and without times."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa

from raysys.data.formats.delimited import malformed
from raysys.data.formats.source import EventFormat, Piece, RawEvents, SourceConfig
from raysys.errors import UserError

_LINES = 100_000


class Sequences(EventFormat):
    """White-space separated text, plain or gzipped: `ml-1m.txt` and the Amazon sequences are of this format."""

    class Config(SourceConfig):
        """A file of sequences; position in the file is the order of events."""

        format: Literal["sequences"] = "sequences"

    config: Config

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield the events of 100,000 lines at a time; a line with fewer than two fields is malformed."""
        lines: list[list[bytes]] = []
        bad: list[tuple[int, str]] = []
        rows: list[int] = []
        for number, line in enumerate(_lines(piece.path), start=1):
            fields = line.split()
            if len(fields) >= 2:
                lines.append(fields)
                rows.append(number)
            elif fields:
                bad.append((number, line.decode(errors="replace").strip()))
            if len(lines) + len(bad) >= _LINES:
                yield self._events(lines, rows, bad)
                lines, rows, bad = [], [], []
        if lines or bad:
            yield self._events(lines, rows, bad)

    def _events(self, lines: list[list[bytes]], rows: list[int], bad: list[tuple[int, str]]) -> RawEvents:
        lengths = np.array([len(fields) - 1 for fields in lines], dtype=np.int64)
        owner = pa.array(np.repeat(np.arange(len(lines)), lengths))
        users = pa.array([fields[0] for fields in lines], pa.binary())
        items = pa.array([item for fields in lines for item in fields[1:]], pa.binary())
        table = pa.table(
            {
                "user_id": users.take(owner),
                "item_id": items,
                "event": pa.repeat(pa.scalar(self.config.event), len(items)),
                "timestamp": pa.nulls(len(items)),
                "row": pa.array(np.array(rows, dtype=np.int64)).take(owner),
            }
        )
        return RawEvents(table, malformed(bad))


def _lines(path: str) -> Iterator[bytes]:
    try:
        with pa.input_stream(path, compression="detect") as stream:
            rest = b""
            while chunk := stream.read(8 << 20):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
            if rest:
                yield rest
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
