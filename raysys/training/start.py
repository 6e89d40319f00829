"""Where a run starts: its dataset, its parent, and the weights of its first step. The same on every rank."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raysys.config import RunConfig
from raysys.data.dataset import Dataset
from raysys.data.schema import FIRST_ITEM
from raysys.data.vocabulary import Vocabulary
from raysys.errors import UserError
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
    """Build the model of a resolved config: random from its seed, or with the weights of the run it starts from."""
    torch.manual_seed(config.seed)
    network = MultiTask(config.model, config.tasks, dataset.manifest)
    if config.start_from is not None:
        _inherit(network, Run.open(config.start_from), dataset.vocabulary)
    return network


def _inherit(network: MultiTask, parent: Run, vocabulary: Vocabulary) -> None:
    """Copy the parent's weights: rows of item tables by item id, everything else as it is; new heads stay random."""
    own, given = network.state_dict(), load_file(parent.path / "model.safetensors")
    tables = _item_tables(network, len(vocabulary))
    source, place = _shared_items(parent.vocabulary, vocabulary)
    for name, tensor in given.items():
        if name not in own:
            continue  # a head that this run does not have
        if name in tables and tensor.shape[1:] == own[name].shape[1:]:
            own[name][place] = tensor[source]
        elif tensor.shape == own[name].shape:
            own[name] = tensor
        else:
            raise UserError(
                f"start_from: {parent.record.run_id} has {name} of shape {tuple(tensor.shape)}, this config makes "
                f"{tuple(own[name].shape)}; leave `model:` out to take the parent's, or train from scratch"
            )
    network.load_state_dict(own)


def _item_tables(network: nn.Module, vocabulary_size: int) -> set[str]:
    return {
        f"{name}.weight"
        for name, part in network.named_modules()
        if isinstance(part, nn.Embedding) and part.num_embeddings == vocabulary_size
    }


def _shared_items(old: Vocabulary, new: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return (old indices, new indices) of the items that both vocabularies have, PAD and UNKNOWN included."""
    source = torch.from_numpy(old.encode(new.item_ids).to_numpy(zero_copy_only=False).astype("int64"))
    known = source >= FIRST_ITEM
    special = torch.arange(FIRST_ITEM)
    places = torch.arange(len(new.item_ids))[known] + FIRST_ITEM
    return torch.cat([special, source[known]]), torch.cat([special, places])
