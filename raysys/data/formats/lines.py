"""Lines of text files, in blocks of bounded memory: of whole files, packed ones too, and of parts cut anywhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from raysys.data.formats.source import Piece
from raysys.data.places import open_random, open_text
from raysys.errors import UserError

BLOCK_BYTES: Final = 16 << 20
"""How much text is held at once."""

_LONGEST_LINE: Final = 64 << 20
_NEWLINE: Final = 10
_IS_SPACE: Final = np.isin(np.arange(256), list(b" \t\n\r\x0b\x0c"))
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Lines:
    """A block of N whole lines; the line end is a newline, and what stands before it belongs to the line."""

    data: bytes
    starts: np.ndarray  # [N + 1] i64: line i is data[starts[i] : starts[i + 1]], its newline included
    rows: np.ndarray  # [N] i64: number of the line in its file from 1, or the byte where it begins

    def __len__(self) -> int:
        """Number of lines."""
        return len(self.rows)

    @property
    def is_space(self) -> np.ndarray:
        """Which bytes of the text are white space [len(data)] bool."""
        spaces: np.ndarray = _IS_SPACE[np.frombuffer(self.data, np.uint8)]
        return spaces

    def line(self, index: int | np.integer) -> bytes:
        """Return a line without its line end."""
        return self.data[self.starts[index] : self.starts[index + 1]].rstrip(b"\r\n")

    def text(self, index: int | np.integer, encoding: str = "utf8") -> str:
        """Return a line as text, marking what cannot be decoded."""
        return self.line(index).decode(encoding, errors="replace")

    def keep(self, mask: np.ndarray) -> "Lines":
        """Return the lines where the mask [N] is true."""
        if mask.all():
            return self
        chosen = np.flatnonzero(mask)
        ends = self.starts[1:][chosen]
        parts = [self.data[start:end] for start, end in zip(self.starts[chosen], ends, strict=True)]
        lengths = ends - self.starts[chosen]
        return Lines(b"".join(parts), np.concatenate([[0], np.cumsum(lengths)]), self.rows[chosen])

    def part(self, begin: int, end: int) -> "Lines":
        """Return lines `begin` to `end` (not included)."""
        starts = self.starts[begin : end + 1]
        return Lines(self.data[starts[0] : starts[-1]], starts - starts[0], self.rows[begin:end])


def read_lines(piece: Piece, block_bytes: int = BLOCK_BYTES, has_header: bool = False) -> Iterator[Lines]:
    """Yield the lines of a piece block by block; the header line of the file is left out, a byte order mark too.

    Raises:
        UserError: the file cannot be read or unpacked, or a line is longer than 64 MiB.
    """
    number = 1
    is_first = piece.start == 0
    try:
        for offset, data in _blocks(piece, block_bytes):
            lines = _split(data, offset if piece.by_offset else None, number)
            number += len(lines)
            if is_first:
                lines = _without_head(lines, has_header)
                is_first = False
            if len(lines):
                yield lines
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{piece.path}: cannot be read: {error}") from None


def _split(data: bytes, offset: int | None, number: int) -> Lines:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
    if not len(ends) or ends[-1] != len(data):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends]).astype(np.int64)
    rows = starts[:-1] + offset if offset is not None else np.arange(number, number + len(ends), dtype=np.int64)
    return Lines(data, starts, rows)


def _without_head(lines: Lines, has_header: bool) -> Lines:
    if has_header:
        return lines.part(1, len(lines))
    if not lines.data.startswith(_BYTE_ORDER_MARK):
        return lines
    starts = np.maximum(lines.starts - len(_BYTE_ORDER_MARK), 0)
    return Lines(lines.data[len(_BYTE_ORDER_MARK) :], starts, lines.rows)


def _blocks(piece: Piece, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield (byte where it begins in the text, whole lines)."""
    if piece.stop is None:
        with open_text(piece.path) as stream:
            yield from _whole_lines(piece.path, stream, 0, None, block_bytes)
        return
    with open_random(piece.path) as stream:
        begin, end = (_line_start(stream, place) for place in (piece.start, piece.stop))
        stream.seek(begin)
        yield from _whole_lines(piece.path, stream, begin, end, block_bytes)


def _whole_lines(
    path: str, stream: pa.NativeFile, offset: int, end: int | None, block_bytes: int
) -> Iterator[tuple[int, bytes]]:
    left = end - offset if end is not None else None
    rest, chunk = b"", stream.read(block_bytes if left is None else min(block_bytes, left))
    while chunk:
        left = left - len(chunk) if left is not None else None
        ahead = stream.read(block_bytes if left is None else min(block_bytes, left))
        block = rest + chunk
        cut = block.rfind(b"\n") + 1 if ahead else len(block)  # the last line of a file may lack its newline
        rest, chunk = block[cut:], ahead
        if len(rest) > _LONGEST_LINE:
            raise UserError(f"{path}: a line is longer than 64 MiB; is this a text file with a row per line?")
        if cut:
            yield offset, block[:cut]
            offset += cut


def _line_start(stream: pa.NativeFile, place: int) -> int:
    """Return where the first line begins that does not begin before `place`: the parts of a file meet exactly."""
    size: int = stream.size()
    if place <= 0 or place >= size:
        return min(max(place, 0), size)
    stream.seek(place - 1)
    while chunk := stream.read(1 << 16):
        if (found := chunk.find(b"\n")) >= 0:
            return place + found
        place += len(chunk)
    return size
