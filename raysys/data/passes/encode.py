"""Third pass: the drafts of the lanes become shards, and each shard is audited."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from raysys.data.audit import audit_categories, audit_shard
from raysys.data.dataset import category_path
from raysys.data.files import digest_of, read_arrow, write_arrow
from raysys.data.passes.learn import item_indices, merged_folder
from raysys.data.passes.plan import LaneTask, write_summary
from raysys.data.schema import CATEGORY_PREFIX, UNKNOWN, sequences_schema
from raysys.data.sequences import encode_rows
from raysys.data.vocabulary import Vocabulary


class EncodeLanes(LaneTask):
    """Task: draft of a lane -> its shard, and a summary for the manifest."""

    def run(self, number: int) -> None:
        """Encode and audit one lane."""
        plan, survey, name = self.plan, self.survey, f"{number:05d}.arrow"
        vocabulary = Vocabulary.load(plan.version / "vocabulary.arrow")
        indices = item_indices(plan, number, len(survey.bounds) - 1)
        categories = {
            category: Vocabulary.load(category_path(plan.version, category)).item_ids
            for category in survey.fields.categories
        }
        draft = read_arrow(plan.staging / "drafts" / name)
        shard = plan.version / "shards" / name
        write_arrow(encode_rows(draft, indices, categories, sequences_schema(survey.fields)), shard)
        history = plan.config.history or survey.event_names
        is_history = np.array([event in history for event in survey.event_names], bool)
        learned = read_arrow(plan.version / "items" / name)
        periods = survey.splitting.periods
        tokens = audit_shard(shard, learned, indices, vocabulary.item_ids, is_history, periods)
        for category, values in categories.items():
            learned = read_arrow(merged_folder(plan, category, 0) / name)
            audit_categories(shard, category, learned, values, CATEGORY_PREFIX + category)
        summary = json.loads((plan.staging / "lanes" / f"{number:05d}.json").read_text())
        coded = ("items", *(CATEGORY_PREFIX + category for category in categories))
        codes = [read_arrow(shard)[column].combine_chunks().values.to_numpy() for column in coded]
        outside = {"unknown": int(sum(np.sum(values == UNKNOWN) for values in codes)), "train_tokens": tokens}
        write_summary(
            summary | outside | {"shard": name, "digest": digest_of(shard)}, summary_path(plan.staging, number)
        )


def summary_path(staging: Path, number: int) -> Path:
    """Return where a lane's summary lies once its shard is written."""
    return staging / "summaries" / f"{number:05d}.json"


def manifest_digest(parts: list[Path], summaries: list[dict[str, Any]], names: Any) -> str:
    """Return the sha256 over everything that a dataset's readers see."""
    digest = hashlib.sha256(json.dumps(names).encode())
    for path in parts:
        digest.update(digest_of(path).encode())
    digest.update("".join(summary["digest"] for summary in summaries).encode())
    return digest.hexdigest()
