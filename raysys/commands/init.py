"""raysys init: looks at a log and writes the YAML that ingests it and trains on it."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from raysys.errors import UserError

app = typer.Typer(add_completion=False)
_SAMPLE_ROWS = 1000
_GUESSES = {
    "user_id": ("userid", "uid", "user", "visitorid", "customerid", "customer", "reviewerid", "accountid", "memberid"),
    "item_id": ("itemid", "iid", "item", "sku", "productid", "product", "movieid", "videoid", "asin", "articleid"),
    "timestamp": (
        "timestamp",
        "ts",
        "time",
        "timems",
        "datetime",
        "eventtime",
        "date",
        "unixtime",
        "createdat",
        "utime",
    ),
    "event": ("event", "eventtype", "action", "eventname", "behavior", "interactiontype"),
    "rating": ("rating", "stars", "score", "overall"),
}
_INGEST = """\
# How {log} becomes a dataset: raysys ingest {folder}/ingest.yaml
project: {project}
sources:
  - path: {path}
    format: {format}{extras}
# Events that become tokens of a user's history; all of them when left out:
# history: [purchase, click]
{split}
# Share of rows that may be rejected before the ingestion fails (they are kept under rejected/, with the reason):
max_rejected: 0.05
"""
_TRAIN = """\
# A first model: raysys train {folder}/train.yaml
project: {project}
model:
  width: 64                # size of item vectors and states
  max_length: 50           # newest history events that a state may know
  backbone: {{kind: sasrec, num_blocks: 2}}
tasks:
  next_item: {{}}{rating}
optimizer: {{learning_rate: 0.002}}
training: {{epochs: 20, batch_size: 128, early_stopping: {{patience: 3}}}}
"""


@app.command()
def init(
    log: Annotated[Path, typer.Argument(help="A log: parquet, csv, tsv or text file, or a directory of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory for the YAML files.")] = Path("."),
    project: Annotated[str | None, typer.Option(help="Project name; by default the log's.")] = None,
    user: Annotated[str | None, typer.Option(help="Column with the user.")] = None,
    item: Annotated[str | None, typer.Option(help="Column with the item.")] = None,
    time: Annotated[str | None, typer.Option(help="Column with the time.")] = None,
) -> None:
    """Sample a log and write ingest.yaml and train.yaml, commented, for you to read and mend."""
    source, labels, has_time = _look(log, {"user_id": user, "item_id": item, "timestamp": time})
    name = project or re.sub(r"[^A-Za-z0-9._-]+", "-", log.resolve().name.split(".")[0]).strip("-.") or "project"
    split = (
        "# The newest events of all users are held out: closest to live use. Or dates: valid_from, test_from\n"
        "split: {kind: time, valid_share: 0.1, test_share: 0.1}"
        if has_time
        else "# The log has no times: the order of its rows is the order of events.\nsplit: {kind: leave_one_out}"
    )
    rating = "\n  rating: {}" if "rating" in labels else ""
    output.mkdir(parents=True, exist_ok=True)
    for file in ("ingest.yaml", "train.yaml"):
        if (output / file).exists():
            raise UserError(f"{output / file}: exists already; give another directory with -o")
    text = {"log": log.name, "folder": output, "project": name, "path": log.resolve(), "split": split, "rating": rating}
    (output / "ingest.yaml").write_text(_INGEST.format(**text, **source))
    (output / "train.yaml").write_text(_TRAIN.format(**text))
    print(output / "ingest.yaml")
    print(output / "train.yaml")


def _look(log: Path, given: dict[str, str | None]) -> tuple[dict[str, str], dict[str, str], bool]:
    """Return (format and its keys as YAML text, label columns, whether there are times)."""
    from raysys.data.places import list_files

    first = Path(list_files(str(log))[0].path)
    if any((log / name).exists() for name in ("u.data", "ratings.dat")):
        return {"format": "movielens", "extras": ""}, {"rating": "rating"}, True
    plain = first.name.removesuffix(".gz")
    if plain.endswith(".parquet"):
        import pyarrow.parquet as pq

        return _columns("parquet", pq.read_schema(first).names, given, "")
    if plain.endswith((".jsonl", ".ndjson", ".json")):
        from raysys.data.json_objects import read_objects

        return _columns("jsonl", next(read_objects(str(first)))[0].column_names, given, "")
    if plain.endswith((".csv", ".tsv", ".txt", ".data")):
        return _text(first, given)
    raise UserError(
        f"{first}: a log ends in .parquet, .csv, .tsv, .jsonl, .txt or .data (text also .gz); convert it, or write "
        "the YAML"
    )


def _text(path: Path, given: dict[str, str | None]) -> tuple[dict[str, str], dict[str, str], bool]:
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(1 << 16).decode("utf8", errors="replace").splitlines()[:_SAMPLE_ROWS]
    if not head:
        raise UserError(f"{path}: the log is empty")
    delimiter = max(("\t", ",", ";", "|"), key=head[0].count)
    if delimiter not in head[0]:
        if all(len(line.split()) >= 2 for line in head[:-1]):
            return {"format": "sequences", "extras": ""}, {}, False
        raise UserError(f"{path}: no delimiter found in its first line ({head[0][:80]!r}); write the YAML by hand")
    names = [name.strip().strip('"\ufeff') for name in head[0].split(delimiter)]
    if all(re.fullmatch(r"[-+.\d]*", name) for name in names):
        raise UserError(
            f"{path}: the first line holds no column names; write ingest.yaml with `header: [user_id, ...]`"
        )
    return _columns("delimited", names, given, "" if delimiter == "," else f"\n    delimiter: {delimiter!r}")


def _columns(
    form: str, names: list[str], given: dict[str, str | None], extras: str
) -> tuple[dict[str, str], dict[str, str], bool]:
    found: dict[str, Any] = {}
    for key, guesses in _GUESSES.items():
        squeezed = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in names}
        chosen = given.get(key) or next((squeezed[guess] for guess in guesses if guess in squeezed), None)
        if chosen is not None and chosen not in names:
            raise UserError(f"column {chosen!r}: the log has {', '.join(names)}")
        if chosen is None and key in ("user_id", "item_id"):
            option = {"user_id": "--user", "item_id": "--item"}[key]
            raise UserError(
                f"cannot tell which column is the {key[:4]}; say it with {option} (the log has {', '.join(names)})"
            )
        if chosen is not None:
            found[key] = chosen
    labels = {"rating": found.pop("rating")} if "rating" in found else {}
    columns = ", ".join(f"{key}: {column}" for key, column in found.items())
    more = f", labels: {{rating: {labels['rating']}}}" if labels else ""
    return {"format": form, "extras": f"{extras}\n    columns: {{{columns}{more}}}"}, labels, "timestamp" in found
