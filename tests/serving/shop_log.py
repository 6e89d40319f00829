"""A small shop with everything that answers can depend on: categories, prices, stock, tabs, clicks and purchases.

Visitors walk along the items of their brand, one a day; on tab 1 most of what is shown is clicked, on tab 0 little;
some of it is bought. The last item has no features.
"""

import numpy as np
import pandas as pd

import raysys
from raysys.configfile import build
from raysys.data.config import IngestConfig
from raysys.data.ingest import ingest
from raysys.data.line import in_process

START = 1_700_000_000_000
DAY = 86_400_000
NUM_ITEMS, BRANDS = 60, ("acme", "bolt", "core", "dash")
BLOCK = NUM_ITEMS // len(BRANDS)


def write_shop(folder):
    """Write views, purchases and items."""
    generator = np.random.default_rng(0)
    views, purchases = [], []
    for user in range(240):
        brand, at = user % len(BRANDS), int(generator.integers(BLOCK))
        for day in range(int(generator.integers(6, 14))):
            item = brand * BLOCK + at if generator.random() < 0.85 else int(generator.integers(NUM_ITEMS))
            tab = int(generator.random() < 0.5)
            click = float(generator.random() < (0.85 if tab else 0.15))
            time = START + day * DAY + int(generator.integers(DAY // 2))
            views.append((f"u{user}", f"i{item}", time, click, str(tab)))
            if click and generator.random() < 0.3:
                purchases.append((f"u{user}", f"i{item}", time + 60_000))
            at = (at + 1) % BLOCK
    pd.DataFrame(views, columns=["user_id", "item_id", "time", "click", "tab"]).to_parquet(folder / "views.parquet")
    pd.DataFrame(purchases, columns=["user_id", "item_id", "time"]).to_parquet(folder / "purchases.parquet")
    items = [
        {
            "item_id": f"i{item}",
            "title": f"Item {item}",
            "brand": BRANDS[item // BLOCK],
            "tags": ["even" if item % 2 == 0 else "odd", *(["third"] if item % 3 == 0 else [])],
            "price": float(item),
            "stock": float(item % 5),
        }
        for item in range(NUM_ITEMS - 1)
    ]
    pd.DataFrame(items).to_parquet(folder / "items.parquet")


def shop_run(folder):
    """Ingest and train."""
    write_shop(folder)
    node = {
        "project": "shop",
        "root": str(folder),
        "sources": [
            {
                "path": str(folder / "views.parquet"),
                "format": "parquet",
                "event": "view",
                "columns": {
                    "user_id": "user_id",
                    "item_id": "item_id",
                    "timestamp": "time",
                    "labels": {"click": "click"},
                    "categories": {"tab": "tab"},
                },
            },
            {
                "path": str(folder / "purchases.parquet"),
                "format": "parquet",
                "event": "purchase",
                "columns": {"user_id": "user_id", "item_id": "item_id", "timestamp": "time"},
            },
        ],
        "items": {
            "path": str(folder / "items.parquet"),
            "categories": ["brand", "tags"],
            "numbers": ["price", "stock"],
        },
        "history": ["view"],
        "split": {"kind": "leave_one_out"},
    }
    dataset = ingest(build(IngestConfig, node, "shop"), folder / "datasets" / "shop", each=in_process)
    return raysys.train(
        {
            "project": "shop",
            "root": str(folder),
            "dataset": str(dataset.path),
            "model": {"width": 16, "max_length": 16, "backbone": {"num_blocks": 1}},
            "tasks": {"next_item": {}, "click": {"events": ["view"]}, "similar_item": {}, "bundle": {"within": "36h"}},
            "optimizer": {"learning_rate": 0.01, "warmup_steps": 10},
            "training": {"epochs": 6, "batch_size": 32, "threads": 1, "early_stopping": None},
            "evaluation": {"resamples": 20},
        }
    )
