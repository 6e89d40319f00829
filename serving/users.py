"""What is known of users: their histories, read from the run's dataset through memory maps, never held in Python."""

import bisect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.dataset import Dataset
from raysys.data.files import read_arrow
from raysys.data.reader import ShardReader, UserRows
from raysys.errors import UserError


@dataclass(frozen=True)
class Histories:
    """The users of a dataset, found by id: four bytes of memory per user, the rest stays in the mapped files."""

    reader: ShardReader
    user_ids: pa.ChunkedArray  # [U] string, in row order
    order_U: np.ndarray  # i32, rows in the order of their user ids

    @staticmethod
    def open(path: str | Path, fingerprint: str) -> "Histories":
        """Open the dataset that a run was trained on.

        Raises:
            UserError: it is not there, or it is another dataset, so that its item indices mean other items.
        """
        dataset = Dataset.open(path)
        if dataset.manifest.fingerprint != fingerprint:
            raise UserError(f"{path}: not the dataset that the run was trained on (fingerprints differ)")
        parts = [read_arrow(shard)["user_id"] for shard in dataset.shard_paths]
        user_ids = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
        order = pc.sort_indices(user_ids).to_numpy().astype(np.int32)
        return Histories(ShardReader(dataset, columns=True), user_ids, order)

    def __len__(self) -> int:
        """Number of users."""
        return len(self.order_U)

    def of(self, user_id: str) -> UserRows | None:
        """Return all events of a user, None where the user is not known."""
        place = bisect.bisect_left(self.order_U, user_id, key=self._id_of)
        if place == len(self.order_U) or self._id_of(self.order_U[place]) != user_id:
            return None
        return self.reader.rows(self.order_U[place : place + 1].astype(np.int64))

    def _id_of(self, row: np.int32) -> str:
        user_id: str = self.user_ids[int(row)].as_py()
        return user_id
