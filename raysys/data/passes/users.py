"""The features of users, lane by lane: a row per user in shard order; categories have values of training users only."""

import numpy as np
import pyarrow as pa

from raysys.data.catalog import category_values, encode_users, merge_values, vocabularies
from raysys.data.dataset import USERS
from raysys.data.features import latest
from raysys.data.files import ArrowParts, read_arrow, write_arrow
from raysys.data.passes.plan import LaneTask, Plan, Survey
from raysys.data.passes.prepare import user_details
from raysys.data.schema import Split


class UserValues(LaneTask):
    """Task: shards -> the category values that their training users carry."""

    def run(self, number: int) -> None:
        """Find the values of one lane."""
        plan, name = self.plan, f"{number:05d}.arrow"
        shard = read_arrow(plan.version / "shards" / name)
        marks, times = (shard[column].combine_chunks() for column in ("marks", "times"))
        owner = np.repeat(np.arange(shard.num_rows), np.diff(marks.offsets.to_numpy()))
        train = marks.values.to_numpy() == Split.TRAIN
        first = np.full(shard.num_rows, np.iinfo(np.int64).max)
        np.minimum.at(first, owner[train], times.values.to_numpy()[train])
        known = first < np.iinfo(np.int64).max
        ids = shard["user_id"].filter(pa.array(known))
        details = lane_details(plan, self.survey, number)
        write_arrow(category_values(details, ids, first[known]), plan.staging / "user_values" / name)


class EncodeUsers(LaneTask):
    """Task: lanes -> the features of their users, once the values of all lanes are merged."""

    def run(self, number: int) -> None:
        """Encode the users of one lane."""
        plan, name = self.plan, f"{number:05d}.arrow"
        parts = sorted((plan.staging / "user_values").glob("[0-9]*.arrow"))
        earlier = plan.base / USERS if plan.base else None
        known = vocabularies(read_arrow(earlier)) if earlier is not None and earlier.exists() else None
        values = merge_values([read_arrow(path) for path in parts], known)
        ids = read_arrow(plan.version / "shards" / name)["user_id"].combine_chunks()
        encoded = encode_users(ids, lane_details(plan, self.survey, number), values)
        write_arrow(encoded, plan.staging / "user_features" / name)


def lane_details(plan: Plan, survey: Survey, number: int) -> pa.Table:
    """Return one row of the table of users per id of a lane."""
    return latest(user_details(plan, survey, number))


def write_users(plan: Plan) -> None:
    """Put the features of all lanes into one file, in shard order."""
    paths = sorted((plan.staging / "user_features").glob("[0-9]*.arrow"))
    tables = [read_arrow(path) for path in paths]
    parts = ArrowParts(plan.version / USERS, tables[0].schema)
    for table in tables:
        if table.num_rows:  # a lane may have lost all its users; an empty part would bring empty dictionaries
            parts.add(table)
    parts.close()
