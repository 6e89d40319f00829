"""DeepCTR-Torch's MMOE on KuaiRand's impressions: stands alone in its own environment, JSON on its last line.

Its own `fit`; batches that warm up go through a `fit` of their own, before the clock.
"""

import time

import numpy as np
import torch
from _kuairand import (
    BATCH,
    DROPOUT,
    EXPERT,
    EXPERTS,
    LABELS,
    LEARNING_RATE,
    TEST,
    TOWER,
    TRAIN,
    VALID,
    WARM,
    WIDTH,
    answer,
    options,
    read,
    scored,
)
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import MMOE


def build(sizes: dict[str, int]) -> MMOE:
    """Make the model: experts of one layer, gates without a hidden one, towers of one hidden layer; no L2."""
    columns = [SparseFeat(name, vocabulary_size=size, embedding_dim=WIDTH) for name, size in sizes.items()]
    model = MMOE(
        columns,
        num_experts=EXPERTS,
        expert_dnn_hidden_units=(EXPERT,),
        gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=(TOWER,),
        l2_reg_linear=0,
        l2_reg_embedding=0,
        dnn_dropout=DROPOUT,
        seed=0,
        task_types=("binary",) * len(LABELS),
        task_names=LABELS,
        device="cpu",
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    model.compile(optimizer, loss=["binary_crossentropy"] * len(LABELS), metrics=[])
    return model


def main() -> None:
    """Train, predict after every epoch, and print one JSON object."""
    args = options(__doc__).parse_args()
    torch.set_num_threads(1)
    fields, sizes, labels, split = read(args.data)
    model = build(sizes)
    parts = [{name: values[split == part] for name, values in fields.items()} for part in (TRAIN, VALID, TEST)]
    train, settings = labels[split == TRAIN], {"batch_size": BATCH, "epochs": 1, "verbose": 0}
    few = WARM * BATCH
    model.fit({name: values[:few] for name, values in parts[TRAIN].items()}, train[:few], **settings)
    found, seconds = {}, 0.0
    for epoch in range(1, args.epochs + 1):
        begun = time.process_time()
        model.fit(parts[TRAIN], train, **settings)
        seconds += time.process_time() - begun
        for name, part in (("valid", VALID), ("test", TEST)):
            found |= scored(name, epoch, model.predict(parts[part], batch_size=8192))
    np.savez(args.predictions, **found)
    answer("DeepCTR-Torch MMOE", args.epochs * len(train), seconds)


if __name__ == "__main__":
    main()
