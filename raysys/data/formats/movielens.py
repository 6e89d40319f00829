"""The GroupLens files: 100K (`u.data`, `u.item`) and 1M (`ratings.dat`, `movies.dat`), from their directory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from raysys.data.formats.shaping import malformed
from raysys.data.formats.source import EventFormat, Piece, RawEvents, SourceConfig
from raysys.data.schema import LABEL_PREFIX, Fields
from raysys.data.times import TimeUnit
from raysys.errors import UserError

GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_LAYOUTS = {"u.data": ("\t", "u.item", "|"), "ratings.dat": ("::", "movies.dat", "::")}


class MovieLens(EventFormat):
    """Ratings from 1 to 5 with unix seconds, and titles and genres of the films."""

    class Config(SourceConfig):
        """The directory of a MovieLens release."""

        format: Literal["movielens"] = "movielens"
        event: str = "rating"

    config: Config

    @property
    def fields(self) -> Fields:
        """The rating in stars."""
        return Fields(labels=("rating",))

    @property
    def time_unit(self) -> TimeUnit:
        """Seconds, in every release."""
        return "s"

    def pieces(self) -> list[Piece]:
        """The one ratings file."""
        return [Piece(str(self._ratings().absolute()), 0)]

    def read(self, piece: Piece) -> Iterator[RawEvents]:
        """Yield all ratings; a line without four fields is malformed."""
        separator = _LAYOUTS[Path(piece.path).name][0]
        rows: list[tuple[int, list[str]]] = []
        bad: list[tuple[int, str]] = []
        for number, line in enumerate(_lines(Path(piece.path)), start=1):
            if not line:
                continue
            fields = line.split(separator)
            rows.append((number, fields)) if len(fields) == 4 else bad.append((number, line))
        users, items, ratings, times = zip(*(fields for _, fields in rows), strict=True) if rows else ((), (), (), ())
        table = pa.table(
            {
                "user_id": pa.array(users, pa.string()),
                "item_id": pa.array(items, pa.string()),
                "event": pa.array([self.config.event] * len(rows), pa.string()),
                "timestamp": pa.array(times, pa.string()),
                LABEL_PREFIX + "rating": pa.array(ratings, pa.string()),
                "row": pa.array([number for number, _ in rows], pa.int64()),
            }
        )
        yield RawEvents(table, malformed(np.array([number for number, _ in bad], np.int64), [line for _, line in bad]))

    def items(self) -> pa.Table | None:
        """Titles and genres, where the release's item file is beside the ratings."""
        ratings = self._ratings()
        _, name, separator = _LAYOUTS[ratings.name]
        path = ratings.parent / name
        if not path.exists():
            return None
        rows = [line.split(separator) for line in _lines(path) if line.count(separator) >= 2]
        genres = [_genres(row, separator) for row in rows]
        return pa.table({"item_id": [row[0] for row in rows], "title": [row[1] for row in rows], "genres": genres})

    def _ratings(self) -> Path:
        root = Path(self.config.path)
        for name in _LAYOUTS:
            if root.is_file() and root.name == name:
                return root
            if (root / name).is_file():
                return root / name
        raise UserError(
            f"path: {root}: no MovieLens release here; the directory must hold {' or '.join(_LAYOUTS)} "
            "(unpack ml-100k.zip or ml-1m.zip from GroupLens)"
        )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="latin-1").split("\n")  # splitlines would also cut at latin-1's control characters


def _genres(row: list[str], separator: str) -> list[str]:
    if separator == "::":
        return row[2].split("|")
    return [genre for genre, flag in zip(GENRES, row[5:], strict=False) if flag == "1"]
