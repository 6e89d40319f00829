"""Where a run starts: its dataset, its parent, and the weights of its first step. The same on every rank."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raysys.config import RunConfig
from raysys.data.dataset import Dataset
from raysys.data.reader import ShardReader
from raysys.data.schema import FIRST_ITEM
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError
from raysys.model.backbones.per_user import UserEmbedding
from raysys.runs import Run, find_run
from raysys.tasks.multitask import MultiTask


def resolve(config: RunConfig) -> RunConfig:
    """Fill in what a config leaves to its surroundings: the dataset's path, the parent run and the parent's model.

    Raises:
        UserError: dataset or parent do not exist, or the dataset lacks what a task needs.
    """
    changes: dict[str, object] = {}
    if config.start_from is not None:
        parent = find_run(config.start_from, config.root)
        if parent.record.exported is not None:
            raise UserError(
                f"start_from: {parent.record.run_id} is an export, whose weights are not those that were trained; "
                f"start from the run that it was made of, {parent.record.exported.of}"
            )
        changes["start_from"] = str(parent.path.absolute())
        if "model" not in config.model_fields_set:
            changes["model"] = parent.config.model
    dataset = Dataset.open(config.dataset or Path(config.root) / "datasets" / config.project)
    resolved = config.model_copy(update={**changes, "dataset": str(dataset.path.absolute())})
    if not len(dataset.rows) or not dataset.manifest.events_by_split["train"]:
        raise UserError(f"dataset {dataset.path}: no training events; check `split:` of the ingest config")
    MultiTask(resolved.model, resolved.tasks, dataset.manifest)  # tells at once what the dataset lacks
    return resolved


def build_network(config: RunConfig, dataset: Dataset) -> MultiTask:
    """Build the model of a resolved config: random from its seed, or with the weights of the run it starts from.

    Raises:
        UserError: the parent's weights do not fit, or the dataset that names its user vectors is no longer there.
    """
    torch.manual_seed(config.seed)
    network = MultiTask(config.model, config.tasks, dataset.manifest)
    network.observe(dataset)
    if config.start_from is not None:
        _inherit(network, Run.open(config.start_from), dataset)
    return network


def _inherit(network: MultiTask, parent: Run, dataset: Dataset) -> None:
    """Copy the parent's parameters: rows of tables by the ids of items and users, everything else as it is.

    New items, users and heads stay random. What parts have observed of a dataset is this run's own, not the parent's.
    """
    own, given = network.state_dict(), load_file(parent.path / "model.safetensors")
    rows = dict.fromkeys(_item_tables(network, dataset), _shared_items(parent.vocabulary, dataset.vocabulary))
    users = [name for name in _user_tables(network) if f"{name}.weight" in given]
    if users:
        source, place = shared = _shared_users(parent, dataset)
        rows |= dict.fromkeys((f"{name}.weight" for name in users), shared)
        for name in users:
            own[f"{name}.trained_U"][place] |= given[f"{name}.trained_U"][source]
    for name, _ in network.named_parameters():
        if name not in given:
            continue  # a head that the parent does not have
        tensor = given[name]
        if name in rows and tensor.shape[1:] == own[name].shape[1:]:
            source, place = rows[name]
            own[name][place] = tensor[source]
        elif tensor.shape == own[name].shape:
            own[name] = tensor
        else:
            raise UserError(
                f"start_from: {parent.record.run_id} has {name} of shape {tuple(tensor.shape)}, this config makes "
                f"{tuple(own[name].shape)}; leave `model:` out to take the parent's, or train from scratch"
            )
    network.load_state_dict(own)


def _item_tables(network: MultiTask, dataset: Dataset) -> list[str]:
    """Return the tables with a row per item: a backbone has none, whatever the size of its tables may be."""
    return [
        f"{name}.weight"
        for name, part in network.named_modules()
        if isinstance(part, nn.Embedding)
        and part.num_embeddings == dataset.manifest.num_items + FIRST_ITEM
        and not name.startswith("recommender.backbone.")
    ]


def _user_tables(network: MultiTask) -> list[str]:
    return [name for name, part in network.named_modules() if isinstance(part, UserEmbedding)]


def _shared_items(old: Vocabulary, new: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return (old indices, new indices) of the items that both vocabularies have, PAD and UNKNOWN included."""
    source = torch.from_numpy(old.encode(new.item_ids).to_numpy(zero_copy_only=False).astype("int64"))
    known = source >= FIRST_ITEM
    special = torch.arange(FIRST_ITEM)
    places = torch.arange(len(new.item_ids))[known] + FIRST_ITEM
    return torch.cat([special, source[known]]), torch.cat([special, places])


def _shared_users(parent: Run, dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return (old rows, new rows) of the users that both datasets have.

    Raises:
        UserError: the parent's dataset, whose order of users its vectors follow, is gone or was rewritten.
    """
    path, wanted = Path(parent.record.dataset), parent.record.dataset_fingerprint
    old = Dataset.open(path) if path.is_dir() else None
    if old is None or old.manifest.fingerprint != wanted:
        raise UserError(
            f"start_from: {parent.record.run_id} has a vector for every user of {path}, which is "
            f"{'gone' if old is None else 'no longer what it was'}; train from scratch"
        )
    before, now = (ShardReader(data).user_ids(np.arange(data.manifest.num_users)) for data in (old, dataset))
    source = pc.index_in(now, before).to_numpy(zero_copy_only=False).astype("float64")  # null becomes NaN
    known = ~np.isnan(source)
    return torch.from_numpy(source[known].astype("int64")), torch.from_numpy(np.flatnonzero(known))
