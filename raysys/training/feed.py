"""Makes the batches of an epoch: each rank's share of every global batch, in parts."""

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from raysys.config import RunConfig
from raysys.data.batches import Batch, make_batch
from raysys.data.dataset import Dataset
from raysys.data.hashing import hash_ids, share_of
from raysys.data.order import plan_epoch, rank_slice
from raysys.data.reader import ShardReader
from raysys.data.schema import Split
from raysys.tasks.draws import step_key
from raysys.training.parallel import Parallel
from raysys.training.prefetch import Parts, batches_on


class Feed:
    """The training users of a dataset, batch by batch: a pure function of (config, epoch, step, rank)."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        reader: ShardReader,
        parallel: Parallel,
        newest: bool = False,
        tokens: bool = True,
    ) -> None:
        """Take what to read: with `newest`, last events are tokens too; without `tokens` there are targets alone."""
        self.config, self.reader, self.parallel = config, reader, parallel
        self.newest, self.tokens = newest, tokens
        rows, share = dataset.rows_with_targets(Split.TRAIN), config.training.user_share
        rows = rows if share == 1 else rows[share_of(hash_ids(reader.user_ids(rows))) < share]
        trained = dataset.rows["train_events"].to_numpy()[rows]
        counts = np.minimum(np.maximum(trained, 1), config.training.pieces)
        self.rows = np.repeat(rows, counts)  # a user comes once for each of his pieces
        self._pieces = np.repeat(counts, counts)
        self._piece = np.arange(len(self.rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        tokens_U = dataset.rows["train_tokens"].to_numpy()
        targets = (np.repeat(trained, counts) - self._piece - 1) // self._pieces + 1
        self.lengths = np.minimum(tokens_U[self.rows], config.model.max_length) if tokens else targets
        self._shard_of_row = reader.shard_of_row[self.rows]
        self._num_rows = len(dataset.rows)

    def order(self, epoch: int) -> list[np.ndarray]:
        """Return the global batches of an epoch, as positions into `rows`."""
        training = self.config.training
        size, by_tokens = training.batch_size, training.batch_by == "tokens"
        return plan_epoch(self.lengths, self._shard_of_row, self.config.seed, epoch, size, by_tokens)

    def batches(self, epoch: int, order: Sequence[np.ndarray], first_step: int) -> Generator[Parts]:
        """Yield this rank's share of global batches, in parts, on its device.

        Args:
            epoch: number of the epoch, from 0: it places the windows of long histories.
            order: the global batches, or what is left of them after a restart.
            first_step: number of the first one within the run; with the seed it names a step's random draws.
        """
        return batches_on(self.parallel.device, self._made(epoch, order, first_step))

    def _made(self, epoch: int, order: Sequence[np.ndarray], first_step: int) -> Iterator[Parts]:
        window = np.random.default_rng([self.config.seed, epoch, 1]).random(self._num_rows)
        for step, positions in enumerate(order, start=first_step):
            mine = rank_slice(positions, self.lengths, self.parallel.rank, self.parallel.world_size)
            key = step_key(self.config.seed, step)
            yield tuple(
                self._batch(part if len(part) else positions[:1], bool(len(part)), window, key)
                for part in self._parts(mine)
            )

    def _parts(self, positions: np.ndarray) -> list[np.ndarray]:
        count = self.config.training.accumulate
        if count == 1:
            return [positions]
        in_order = positions[np.argsort(self.lengths[positions], kind="stable")]  # alike beside alike: little padding
        return np.array_split(in_order, count)

    def _batch(self, positions: np.ndarray, has_targets: bool, window: np.ndarray, key: int) -> Batch:
        """Make a batch; fewer users than ranks or parts leave some with a user that has no targets there."""
        users, split = self.rows[positions], Split.TRAIN if has_targets else Split.NONE
        if not self.tokens:
            rows = self.reader.rows(users, lambda offsets, marks: self._asked(offsets, marks, positions))
            # each in a place of its own, because tasks are weighed by their gradients at places
            return make_batch(rows, split, np.ones_like(self.reader.is_history), len(rows.items) or 1, key=key)
        rows = self.reader.rows(users)
        places = window[rows.users] if self.config.training.random_windows else None
        shape = (self.reader.is_history, self.config.model.max_length)
        asked = self._asked(rows.offsets, rows.marks, positions) if self.config.training.pieces > 1 else None
        return make_batch(rows, split, *shape, places, key=key, newest=self.newest, asked=asked)

    def _asked(self, offsets: np.ndarray, marks: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return which events [E] are in the piece of their user: his targets are dealt out in turn."""
        sizes, trained = np.diff(offsets), marks == Split.TRAIN
        before = np.cumsum(trained) - trained
        turn = before - np.repeat(before[offsets[:-1]], sizes)
        pieces, piece = (np.repeat(each[positions], sizes) for each in (self._pieces, self._piece))
        asked: np.ndarray = trained & (turn % pieces == piece)
        return asked
