"""Writes docs/results.md from the recorded figures in benchmarks/results."""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import search_section
import yaml

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "results" / "evidence-quality.json"
TOGETHER = ROOT / "benchmarks" / "results" / "evidence-multitask.json"
SEARCHES = ROOT / "benchmarks" / "results" / "search.json"
WINNER = ROOT / "benchmarks" / "results" / "evidence-tune_winner.json"
PAGE = ROOT / "docs" / "results.md"
PUBLISHED: dict[str, tuple[tuple[str, float, float, str], ...]] = {
    "amazon-beauty": (
        ("popularity", 0.0152, 0.0068, "S3-Rec repository"),
        ("SASRec, BCE (2020)", 0.0605, 0.0318, "S3-Rec repository"),
        ("TIGER", 0.0648, 0.0384, "TIGER, table 1"),
        ("P5 (with its id leak)", 0.0659, 0.0421, "P5 paper, table 3"),
        ("ActionPiece", 0.0775, 0.0424, "arXiv 2502.13581"),
        ("HSTU, re-run", 0.0788, 0.0439, "eSASRec benchmark"),
        ("SASRec, sampled softmax", 0.0921, 0.0531, "eSASRec benchmark"),
        ("eSASRec", 0.0928, 0.0523, "eSASRec benchmark"),
    ),
    "amazon-toys": (("SASRec, sampled softmax", 0.0970, 0.0580, "eSASRec benchmark"),),
    "movielens-1m": (
        ("SASRec, BCE, one negative", 0.2392, 0.1259, "gSASRec repository"),
        ("SASRec, sampled softmax", 0.2929, 0.1684, "eSASRec benchmark"),
        ("gSASRec", 0.3003, 0.1726, "gSASRec repository"),
        ("HSTU", 0.3097, 0.1720, "generative-recommenders, own preprocessing"),
        ("eSASRec", 0.3133, 0.1772, "eSASRec benchmark"),
        ("HSTU-large", 0.3294, 0.1893, "generative-recommenders, own preprocessing"),
    ),
}
"""Recall@10 and NDCG@10 as stated elsewhere, under the same protocol unless the source says otherwise."""
TITLES = {
    "amazon-beauty": "Amazon Beauty",
    "amazon-beauty-text": "Amazon Beauty, items with their text",
    "amazon-beauty-text-gpu": "Amazon Beauty, items with their text, on a GPU",
    "amazon-toys": "Amazon Toys and Games",
    "amazon-toys-text": "Amazon Toys and Games, items with their text",
    "movielens-1m": "MovieLens-1M",
    "movielens-1m-gpu": "MovieLens-1M, on a GPU",
}
INTRODUCTION = """# Results

Written by `make results` from recorded figures; nothing here is typed by hand.

**Protocol.** Leave-one-out: each user's last item is the test target, the one before it the validation target, all
before are training. The whole catalogue is ranked; items that the user already had are left out; no negatives are
sampled. Recall@10 (with one target the same as hit rate) and NDCG@10, means over all users. Test targets that training
never saw count as misses; the published figures drop them, which is worth the percentage that stands with each table.
Configs and the epoch kept were chosen on the validation targets; the test targets were read once per seed.

**Repeat it.** One data set and seed is the two commands below its table. All of them, one process per core, resumable:

```bash
python benchmarks/evidence/quality.py
make results
```
"""


def main() -> None:
    """Write the page, or with --check compare it with what is there."""
    sections = [page(json.loads(FIGURES.read_text())), together(json.loads(TOGETHER.read_text())["summary"])]
    for path, section in ((SEARCHES, search_section.replays), (WINNER, search_section.winner)):
        if path.is_file():
            sections.append(section(json.loads(path.read_text())))
    text = "\n".join(sections)
    if "--check" in sys.argv:
        if PAGE.read_text() != text:
            sys.exit(f"{PAGE} is not what its figures say: run `make results`")
        return
    PAGE.write_text(text)


def page(figures: Mapping[str, Any]) -> str:
    """Return the page."""
    rows = sorted(figures["rows"], key=lambda row: (list(TITLES).index(row["example"]), row["seed"]))
    sections = [_section(name, list(group)) for name, group in groupby(rows, key=lambda row: row["example"])]
    return "\n".join([INTRODUCTION, *sections])


def together(summary: Mapping[str, Any]) -> str:
    """Return the section about one model of many tasks."""
    shares = [
        f"| `{task}` | {one['metric'].rpartition('.')[2]} | {one['together']:.4f} | {one['alone']:.4f} "
        f"| {_with_interval(one)} |"
        for task, one in summary["shares"].items()
    ]
    figures = [
        f"| {name} | {_with_interval(one)} | {one['boosted_trees']:.3f} |" for name, one in summary["figures"].items()
    ]
    errors = [f"| {name} | {_with_interval(one)} |" for name, one in summary["calibration"].items()]
    seeds = next(iter(summary["figures"].values()))["seeds"]
    return f"""## KuaiRand: one model, seven tasks

Split by date: training to 05-02, validation 05-03 and 05-04, test 05-05 and 05-06 (days of Beijing). Nothing of the
test period is an input (`evaluation.live: false`). {seeds} seeds; intervals are of Student's t over seeds. Alone is a
model of that task by itself with the same backbone, fields, epochs and seeds.

| task | figure | together | alone | together / alone, mean (95 % interval) |
|---|---|---|---|---|
{chr(10).join(shares)}

Boosted trees are LightGBM: 300 trees of 63 leaves, out-of-fold target encodings of user, video, author and tag, all
features.

| | raysys, mean (95 % interval) | boosted trees |
|---|---|---|
{chr(10).join(figures)}

Calibration error on test, after calibration on validation. Sampling alone gives .008 in 15 bins of 1,806 pairs
(`ece_floor`); the rest is drift: the level of clicks moves by .01 between two days and the next two, not at the end of
a holiday alone ([why no calendar mends it](decisions/0028-calibration-and-days.md)).

| | mean (95 % interval) |
|---|---|
{chr(10).join(errors)}

```bash
python benchmarks/evidence/multitask.py
make results
```
"""


def _with_interval(one: Mapping[str, Any]) -> str:
    interval = f" ({one['low']:.4f} to {one['high']:.4f})" if "low" in one else ""
    return f"{one['mean']:.4f}{interval}"


def _section(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    ingest, train = rows[0]["files"]
    ours = {metric: [row["test"][metric]["mean"] for row in rows] for metric in ("recall@10", "ndcg@10")}
    lines = [
        (f"**raysys**, {len(rows)} seed{'s' * (len(rows) > 1)}", *map(statistics.mean, ours.values()), "this page")
    ]
    for kind, found in rows[0]["baselines"].items():
        lines.append((f"{kind}, ours", found["recall@10"]["mean"], found["ndcg@10"]["mean"], "same run"))
    lines += PUBLISHED[Path(ingest).parent.name]
    table = "\n".join(
        f"| {who} | {_figure(recall, who)} | {_figure(ndcg, who)} | {where} |"
        for who, recall, ndcg, where in sorted(lines, key=lambda line: line[2])
    )
    config = yaml.safe_dump(dict(rows[0]["config"]), sort_keys=False, default_flow_style=None, width=110).strip()
    return f"""## {TITLES[name]}

| | Recall@10 | NDCG@10 | where stated |
|---|---|---|---|
{table}

{_cold(rows[0])} {_machine(rows)}

| seed | Recall@10 | NDCG@10 | 95 % interval of NDCG@10 | validation NDCG@10 | epochs (kept) | minutes of training |
|---|---|---|---|---|---|---|
{_seeds(rows)}
| mean | {_spread(ours["recall@10"])} | {_spread(ours["ndcg@10"])} | | | | |

```bash
raysys ingest {ingest}
raysys train {train} --set seed=0
```

```yaml
{config}
```
"""


def _seeds(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        ndcg = row["test"]["ndcg@10"]
        cells = (
            row["seed"],
            f"{row['test']['recall@10']['mean']:.4f}",
            f"{ndcg['mean']:.4f}",
            f"{ndcg['low']:.4f} to {ndcg['high']:.4f}",
            f"{row['valid']['ndcg@10']['mean']:.4f}",
            f"{row['epochs']} ({row['best_epoch']})",
            f"{row['training_seconds'] / 60:.1f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _cold(row: Mapping[str, Any]) -> str:
    """Say what test targets that training never saw cost."""
    cold = row["slices"].get("item never seen", {}).get("ndcg@10", {}).get("count", 0)
    share = cold / row["users"]
    if not share:
        return f"{row['users']:,} users; training has seen every test target."
    return (
        f"{row['users']:,} users; {cold:,} of the test targets ({share:.1%}) were never seen in training and count as "
        f"misses: without them every figure of ours is {1 / (1 - share):.3f} times as high."
    )


def _machine(rows: Iterable[Mapping[str, Any]]) -> str:
    """Say where the figures were made, and in which precision of the products with the item table."""
    found = {
        f"{about.get('gpu', about['cpu'])}, one thread per run, torch {about['torch']}, "
        f"`auto` meant {about['precision']}"
        for about in (row["machine"] for row in rows)
    }
    return f"Machine: {'; '.join(sorted(found))}."


def _figure(value: float, who: str) -> str:
    return f"**{value:.4f}**" if who.startswith("**") else f"{value:.4f}"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


if __name__ == "__main__":
    main()
