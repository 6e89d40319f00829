"""What a directory of lists holds: a plan, written first, and a manifest, written last, when all parts are there.

Their names begin with an underscore, so that whoever reads the directory as a table passes them over.
"""

import hashlib
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from raysys.data.files import digest_of
from raysys.data.places import Folder
from raysys.errors import UserError

PLAN, MANIFEST = "_plan.json", "_manifest.json"


class Plan(BaseModel):
    """What determines every byte of the parts: a second call with the same plan goes on with the first one's work."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    weights: str
    """Digest of the run's weights."""
    dataset_fingerprint: str
    asked_before: str
    """Period whose begin users are asked at; `none` is the end of all that is known."""
    users: str
    """Digest of the rows of the dataset."""
    num_users: int
    unknown_users: int
    """Users that were asked for and that the dataset does not have: they have no list."""
    items: str | None
    """Digest of the items that may be recommended; null for the whole catalogue."""
    num_items: int
    unknown_items: int
    """Items that were allowed and that training does not know: they are in no list."""
    k: int
    exclude_seen: bool
    users_per_part: int

    @property
    def num_parts(self) -> int:
        """Number of files."""
        return -(-self.num_users // self.users_per_part)

    def users_of(self, part: int) -> slice:
        """Return which of the users are in a part."""
        return slice(part * self.users_per_part, min((part + 1) * self.users_per_part, self.num_users))


class Manifest(Plan):
    """A plan that was carried out: a directory with this file holds every list."""

    parts: int
    """Files."""
    rows: int
    """Recommendations in all of them."""


def part_name(part: int) -> str:
    """Return the name of a part's file."""
    return f"part-{part:06d}.parquet"


def digest(indices: np.ndarray) -> str:
    """Return a short digest of rows or items."""
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]


def weights_digest(run: Path) -> str:
    """Return a short digest of a run's weights."""
    return digest_of(run / "model.safetensors")[:16]


def begin(folder: Folder, plan: Plan) -> set[int]:
    """Write the plan into an empty directory, or find which of its parts a directory with the same plan has.

    Raises:
        UserError: the directory holds something else, or lists of another plan.
    """
    names = {name for name in folder.names() if not name.endswith(folder.PARTIAL)}
    if PLAN not in names:
        if names:
            raise UserError(f"-o {folder.path}: exists and holds other files; give a directory that is new or empty")
        folder.write(PLAN, plan.model_dump_json(indent=1).encode())
        return set()
    try:
        earlier = Plan.model_validate_json(folder.read(PLAN))
    except ValidationError:
        raise UserError(f"-o {folder.path}: its {PLAN} is none of this raysys; give another directory") from None
    if unlike := [name for name, value in plan if getattr(earlier, name) != value]:
        changes = ", ".join(f"{name}: {getattr(earlier, name)} there, {getattr(plan, name)} now" for name in unlike)
        raise UserError(
            f"-o {folder.path}: was begun with other arguments ({changes}); give another directory, or the same "
            "arguments to go on"
        )
    return {part for part in range(plan.num_parts) if part_name(part) in names}


def finished(folder: Folder) -> Manifest | None:
    """Return the manifest of a complete directory."""
    return Manifest.model_validate_json(folder.read(MANIFEST)) if folder.has(MANIFEST) else None


def finish(folder: Folder, plan: Plan, rows: int) -> Manifest:
    """Write the manifest, after removing what killed workers left."""
    for name in folder.names():
        if name.endswith(folder.PARTIAL):
            folder.remove(name)
    manifest = Manifest(**plan.model_dump(), parts=plan.num_parts, rows=rows)
    folder.write(MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest
