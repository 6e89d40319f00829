"""raysys data generate: a shop's logs as files, to try everything without logs of one's own."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pyarrow as pa

_DAYS = 30
_DEVICES = ("phone", "desktop", "tablet")
_COUNTRIES = ("de", "fr", "it", "pl", "se")


def generate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the files; must not exist.")],
    users: Annotated[int, typer.Option(min=1, help="Visitors of the shop.")] = 3000,
    items: Annotated[int, typer.Option(min=8, help="Articles of the shop.")] = 500,
    seed: Annotated[int, typer.Option(help="Another seed, another shop.")] = 1,
) -> None:
    """Write a shop's four tables, each in another format, with its catalogue and its visitors.

    What is clicked had been shown, what is bought was in the cart, and the next click follows a planted order.
    examples/retail/ingest.yaml reads them.
    """
    from raysys.errors import UserError

    if folder.exists():
        raise UserError(f"{folder}: exists already; give another folder")
    tables = ("impression", "click", "cart", "purchase")
    for name, write in zip(tables, (_impressions, _clicks, _carts, _purchases), strict=True):
        target = folder / f"{name}s"
        target.mkdir(parents=True)
        for number, table in enumerate(_read(name, users, items, seed)):
            write(table, target / f"part-{number:04d}")
    _catalogue(folder / "catalogue.csv", items, seed)
    _visitors(folder / "visitors.jsonl", users, seed)
    print(folder)


def _read(table: str, users: int, items: int, seed: int) -> "list[pa.Table]":
    from raysys.data.formats.synthetic import Synthetic

    config = Synthetic.Config.model_validate(
        {"table": table, "num_users": users, "num_items": items, "events_per_user": 30, "days": _DAYS, "seed": seed}
    )
    form = Synthetic(config)
    return [raw.table for piece in form.pieces() for raw in form.read(piece)]


def _impressions(table: "pa.Table", path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from raysys.data.hashing import hash_ids

    devices = hash_ids(table["user_id"], seed=5) % np.uint64(len(_DEVICES))
    renamed = {
        "visitor": table["user_id"],
        "sku": table["item_id"],
        "shown_at": table["timestamp"],  # milliseconds
        "request": table["request_id"],
        "slot": pa.array(np.arange(table.num_rows) % 2 + 1),
        "device": pa.array(_DEVICES).take(pa.array(devices.astype(np.int64))),
    }
    pq.write_table(pa.table(renamed), path.with_suffix(".parquet"))


def _clicks(table: "pa.Table", path: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    times = pc.strftime(pc.cast(table["timestamp"], pa.timestamp("ms", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
    renamed = {"visitor": table["user_id"], "sku": table["item_id"], "time": times, "request": table["request_id"]}
    with gzip.GzipFile(path.with_suffix(".csv.gz"), "wb", mtime=0) as file:
        csv.write_csv(pa.table(renamed), file)


def _carts(table: "pa.Table", path: Path) -> None:
    import json

    rows = zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp")), strict=True)
    with path.with_suffix(".jsonl").open("w") as file:
        for user, item, time in rows:
            file.write(json.dumps({"visitor": user, "sku": item, "us": time * 1000}) + "\n")


def _purchases(table: "pa.Table", path: Path) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    seconds = pc.divide(table["timestamp"], 1000)
    renamed = {"visitor": table["user_id"], "sku": table["item_id"], "unix": seconds}
    csv.write_csv(
        pa.table(renamed),
        path.with_suffix(".tsv"),
        csv.WriteOptions(delimiter="\t", quoting_style="none", quoting_header="none"),
    )


def _catalogue(path: Path, items: int, seed: int) -> None:
    import numpy as np

    prices = np.round(np.random.default_rng([seed, 2]).lognormal(3, 1, items), 2)
    _lines(path, "sku,title,brand,price", items, lambda i: f"i{i},Article {i},brand{i % 17},{prices[i]}")


def _visitors(path: Path, users: int, seed: int) -> None:
    import json

    import numpy as np

    generator = np.random.default_rng([seed, 3])
    ages, countries = generator.integers(18, 80, users), generator.integers(len(_COUNTRIES), size=users)

    def line(i: int) -> str:
        return json.dumps({"visitor": f"u{i}", "country": _COUNTRIES[countries[i]], "age": int(ages[i])})

    _lines(path, None, users, line)


def _lines(path: Path, header: str | None, count: int, line: Callable[[int], str]) -> None:
    with path.open("w") as file:
        if header is not None:
            file.write(header + "\n")
        file.writelines(line(i) + "\n" for i in range(count))
