"""cluster.yaml is a file that `ray up` accepts, asks for the token on every node, and mounts what is there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def accept(config: dict[str, Any]) -> dict[str, Any]:
    """Check a config as `ray up` does and return it with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_ray_accepts_it(cluster):
    types = accept(cluster)["available_node_types"]
    limits = {name: (node["min_workers"], node["max_workers"]) for name, node in types.items()}
    assert limits == {"ray.head.default": (0, 0), "cpu": (0, 4), "gpu": (0, 2)}


def test_ray_would_refuse_a_mistake(cluster):
    from jsonschema import ValidationError

    with pytest.raises(ValidationError, match="max_wrokers"):
        accept({**cluster, "max_wrokers": 3})


def test_the_workers_of_all_types_fit_together(cluster):
    workers = [node["max_workers"] for node in cluster["available_node_types"].values() if "max_workers" in node]
    assert cluster["max_workers"] == sum(workers)


@pytest.mark.parametrize("role", ["head", "worker"])
def test_every_start_asks_for_the_token(cluster, role):
    starts = [line for line in cluster[f"{role}_start_ray_commands"] if "ray start" in line]
    assert starts, f"{role}_start_ray_commands never starts ray"
    assert all("RAY_AUTH_MODE=token ray start" in line for line in starts)


def test_every_mounted_path_of_the_project_exists(cluster):
    missing = [
        path for path in cluster["file_mounts"].values() if not path.startswith("~") and not (ROOT / path).exists()
    ]
    assert not missing, f"cluster.yaml mounts {missing}, which are not in the repository"


def test_images_bring_the_tested_ray(cluster):
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    tested = re.search(r"^ray==(\S+)$", constraints, re.MULTILINE)
    images = [cluster["docker"]["image"], cluster["available_node_types"]["gpu"]["docker"]["worker_image"]]
    assert tested is not None
    assert all(image.startswith(f"rayproject/ray:{tested[1]}-py311") for image in images), (
        f"set {images} to {tested[1]}"
    )
