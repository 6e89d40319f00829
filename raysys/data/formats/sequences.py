"""A line per user (`user item item ...`) or per event (`user item`), in time order and without times."""

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from raysys.data.formats.lines import Lines, read_lines
from raysys.data.formats.shaping import malformed
from raysys.data.formats.source import EventFormat, Piece, RawEvents, SourceConfig, cut_files

_BLOCK_BYTES: Final = 4 << 20


class Sequences(EventFormat):
    """White-space separated text, plain or packed: `ml-1m.txt` and the Amazon sequences are of this format."""

    class Config(SourceConfig):
        """A file of sequences; position in the file is the order of events."""

        format: Literal["sequences"] = "sequences"

    config: Config

    def pieces(self) -> list[Piece]:
        """One piece per file, several for large plain files."""
        return cut_files(self.config.path)

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield the events of some MiB of lines at a time; a line with one field only is malformed."""
        for lines in read_lines(piece, _BLOCK_BYTES):
            yield self._events(lines)

    def _events(self, lines: Lines) -> RawEvents:
        words, counts = _split(lines)
        begins = np.cumsum(counts) - counts
        good = np.flatnonzero(counts >= 2)
        lengths = counts[good] - 1
        is_item = np.repeat(counts >= 2, counts)
        is_item[begins[good]] = False
        num_events = int(lengths.sum())
        table = pa.table(
            {
                "user_id": words.take(pa.array(np.repeat(begins[good], lengths))),
                "item_id": words.filter(pa.array(is_item)),
                "event": pa.repeat(pa.scalar(self.config.event), num_events),
                "timestamp": pa.nulls(num_events),
                "row": pa.array(np.repeat(lines.rows[good], lengths)),
            }
        )
        bad = np.flatnonzero(counts == 1)
        return RawEvents(table, malformed(lines.rows[bad], [lines.text(index).strip() for index in bad]))


def _split(lines: Lines) -> tuple[pa.Array, np.ndarray]:
    """Return all words of the lines as bytes, and how many each line has [N] i64."""
    text = np.frombuffer(lines.data, np.uint8)
    space = lines.is_space
    begins = np.flatnonzero(~space & np.concatenate([[True], space[:-1]]))
    ends = np.flatnonzero(~space & np.concatenate([space[1:], [True]])) + 1
    offsets = np.zeros(len(begins) + 1, np.int32)
    np.cumsum(ends - begins, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text[~space])]
    words = pa.BinaryArray.from_buffers(pa.binary(), len(begins), buffers)
    return words, np.diff(np.searchsorted(begins, lines.starts))
