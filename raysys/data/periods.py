"""When the periods of a split end, where these are moments for all users."""

from raysys.data.dataset import Dataset
from raysys.data.splitting import SPLITS


def period_ends(dataset: Dataset) -> tuple[int, int, int] | None:
    """Return the last ms of training, validation and test; None where each user's periods end at his own events."""
    manifest = dataset.manifest
    node = manifest.config["split"]
    splitting = SPLITS[node["kind"]]
    periods = splitting(splitting.Config.model_validate(node)).periods
    if periods is None or manifest.time_range is None:
        return None
    return periods[0] - 1, periods[1] - 1, manifest.time_range[1]
