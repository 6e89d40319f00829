import pytest

from raysys.configfile import build
from raysys.contracts.conftest import contract_dataset  # noqa: F401
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process


@pytest.fixture(scope="session")
def popular_dataset(tmp_path_factory):
    """40 items, some of them much more popular than others."""
    root = tmp_path_factory.mktemp("popular")
    lines = [f"u{user} i{item}" for item in range(40) for user in range(3 + item * item // 8)]
    (root / "log.txt").write_text("\n".join(lines) + "\n")
    source = {"path": str(root / "log.txt"), "format": "sequences", "event": "view"}
    node = {"project": "popular", "sources": [source], "split": {"kind": "leave_one_out"}}
    return ingest(build(IngestConfig, node, "popular"), root / "dataset", each=in_process)
