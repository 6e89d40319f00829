import json

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


@pytest.fixture(scope="session")
def shop_dataset(tmp_path_factory):
    """Clicks with features of users and items: eight users of three cities, nine items of one or two kinds."""
    root = tmp_path_factory.mktemp("shop")

    def write(name, rows):
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(root / name)

    views = [
        {"u": f"u{user}", "i": f"i{(user + at) % 9}", "click": (user + at) % 2, "t": 1_700_000_000 + 100 * at + user}
        for at in range(10)
        for user in range(8)
    ]
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t", "labels": {"click": "click"}}
    items = [{"i": f"i{at}", "kinds": ["toy", "new"][: 1 + at % 2], "price": at} for at in range(9)]
    users = [{"u": f"u{user}", "city": "abc"[user % 3], "age": 20 + user} for user in range(8)]
    node = {
        "project": "shop",
        "sources": [{"path": write("views.jsonl", views), "format": "jsonl", "event": "view", "columns": columns}],
        "items": {
            "path": write("items.jsonl", items),
            "id": "i",
            "title": None,
            "categories": ["kinds"],
            "numbers": ["price"],
        },
        "users": {"path": write("users.jsonl", users), "id": "u", "categories": ["city"], "numbers": ["age"]},
        "split": {"kind": "leave_one_out"},
    }
    return ingest(build(IngestConfig, node, "shop"), root / "dataset", each=in_process)
