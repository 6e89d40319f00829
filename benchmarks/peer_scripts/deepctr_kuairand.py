"""DeepCTR-Torch's MMOE on KuaiRand's impressions: stands alone in its own environment, JSON on its last line.

Its own `fit`; batches that warm up go through a `fit` of their own, before the clock.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import MMOE

TRAIN, VALID, TEST = 0, 1, 2
LABELS = ("click", "long_view")


def read(data: Path) -> tuple[dict[str, np.ndarray], dict[str, int], np.ndarray, np.ndarray]:
    """Return the fields, their sizes, the labels [N, 2] and the split."""
    arrays = np.load(data)
    fields = {key.removeprefix("field."): arrays[key] for key in arrays.files if key.startswith("field.")}
    sizes = {name.replace(".", "_"): int(arrays[f"size.{name}"]) for name in fields}
    # a module cannot have a dot in its name
    named = {name.replace(".", "_"): values for name, values in fields.items()}
    return named, sizes, np.stack([arrays[f"label.{name}"] for name in LABELS], axis=1), arrays["split"]


def build(args: argparse.Namespace, sizes: dict[str, int]) -> MMOE:
    """Make the model: experts of one layer, gates without a hidden one, towers of one hidden layer; no L2."""
    columns = [SparseFeat(name, vocabulary_size=size, embedding_dim=args.width) for name, size in sizes.items()]
    model = MMOE(
        columns,
        num_experts=args.experts,
        expert_dnn_hidden_units=(args.expert,),
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=(args.tower,),
        l2_reg_linear=0,
        l2_reg_embedding=0,
        dnn_dropout=args.dropout,
        seed=args.seed,
        task_types=("binary",) * len(LABELS),
        task_names=LABELS,
        device="cpu",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    model.compile(optimizer, loss=["binary_crossentropy"] * len(LABELS), metrics=[])
    return model


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="arrays of impressions")
    parser.add_argument("--predictions", type=Path, required=True, help="file to write")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--expert", type=int, default=64)
    parser.add_argument("--tower", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=5, help="batches before the clock")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, predict after every epoch, and print one JSON object."""
    args = parse()
    torch.set_num_threads(1)
    fields, sizes, labels, split = read(args.data)
    model = build(args, sizes)
    parts = [{name: values[split == part] for name, values in fields.items()} for part in (TRAIN, VALID, TEST)]
    train, settings = labels[split == TRAIN], {"batch_size": args.batch_size, "epochs": 1, "verbose": 0}
    few = args.warmup * args.batch_size
    model.fit({name: values[:few] for name, values in parts[TRAIN].items()}, train[:few], **settings)
    found, seconds = {}, 0.0
    for epoch in range(1, args.epochs + 1):
        begun = time.process_time()
        model.fit(parts[TRAIN], train, **settings)
        seconds += time.process_time() - begun
        for name, part in (("valid", VALID), ("test", TEST)):
            scores = model.predict(parts[part], batch_size=8192)
            found |= {f"{name}.{label}.{epoch}": scores[:, at] for at, label in enumerate(LABELS)}
    np.savez(args.predictions, **found)
    rows = args.epochs * len(train)
    rate = {"samples": rows, "cpu_seconds": seconds, "samples_per_cpu_second": rows / seconds}
    print(json.dumps({"peer": "DeepCTR-Torch MMOE", "torch_threads": torch.get_num_threads(), **rate}))


if __name__ == "__main__":
    main()
