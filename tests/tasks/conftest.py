import json
import random
from datetime import UTC, datetime, timedelta

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


DAY = 86_400


@pytest.fixture(scope="session")
def visits_dataset(tmp_path_factory):
    """60 users over 24 days, a basket of two or three items a visit; who takes items of the second half comes rarely.

    Items 2k and 2k + 1 go together. The first items of each half are taken most. Validation is from day 16 on, test
    from day 20 on.
    """
    root, draw = tmp_path_factory.mktemp("visits"), random.Random(0)
    rows = []
    for user in range(60):
        rare = user % 2
        day = draw.random() * (4 if rare else 1)
        while day < 24:
            pair = min(int(draw.expovariate(0.5)), 4) + 5 * rare
            basket = [2 * pair, 2 * pair + 1, draw.randrange(10) + 10 * rare][: draw.choice([2, 2, 3])]
            draw.shuffle(basket)
            for place, item in enumerate(basket):
                moment = 1_700_006_400 + int(day * DAY) + 60 * place
                rows.append({"u": f"u{user}", "i": f"i{item:02}", "e": draw.choice(["view", "buy"]), "t": moment})
            day += (4 + 4 * draw.random()) if rare else (0.6 + draw.random())
    (root / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"user_id": "u", "item_id": "i", "timestamp": "t", "event": "e"}
    source = {"path": str(root / "log.jsonl"), "format": "jsonl", "columns": columns}
    begin = datetime.fromtimestamp(1_700_006_400, UTC)
    dates = {name: (begin + timedelta(days=at)).isoformat() for name, at in (("valid_from", 16), ("test_from", 20))}
    node = {"project": "visits", "sources": [source], "history": ["view", "buy"], "split": {"kind": "time", **dates}}
    return ingest(build(IngestConfig, node, "visits"), root / "dataset", each=in_process)
