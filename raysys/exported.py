"""What `raysys export` makes of a run is a run again: this loads its weights and programs, and makes none."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from raysys.errors import UserError

if TYPE_CHECKING:  # records of runs are read without torch
    from raysys.config import RunConfig
    from raysys.data.dataset import Manifest
    from raysys.tasks.multitask import MultiTask

OWN_DATASET = "."
"""As the dataset of a record: the run's own directory is one, a view with the items that the run knows."""


class Exported(BaseModel):
    """What an export was made of, how, and what that cost; see docs/export.md."""

    model_config = ConfigDict(frozen=True)

    of: str
    """Directory of the run that it was made of."""
    kinds: tuple[str, ...]
    settings: Mapping[str, int] = {}
    """What the kinds were given."""
    made_with: Mapping[str, str]
    """Version of torch and instructions of the processor: a compiled program needs the same."""
    measured: Mapping[str, Mapping[str, float]] = {}
    """Bytes, milliseconds and metrics of the "original" and of the "export"."""


def load_network(path: Path, config: "RunConfig", manifest: "Manifest", exported: Exported | None) -> "MultiTask":
    """Return the model of a run's directory, in evaluation mode on the CPU.

    Raises:
        UserError: its program cannot run here, or its weights are those of another version of raysys.
    """
    from raysys.model.program import ProgramBackbone, find_program
    from raysys.model.stored import read_weights
    from raysys.tasks.multitask import MultiTask

    network = MultiTask(config.model, config.tasks, manifest)
    if exported is not None:
        program = find_program(path, exported.made_with)
        if program is not None:
            network.recommender.backbone = ProgramBackbone(network.recommender.backbone, program)
    weights = read_weights(path / "model.safetensors")
    if unlike := weights.keys() ^ network.state_dict().keys():
        raise UserError(
            f"{path}: has the weights of a run of another version of raysys ({', '.join(sorted(unlike)[:3])}); take "
            "that version, or train it again"
        )
    network.load_state_dict(weights)
    return network.eval()
