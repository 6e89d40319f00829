import math
import random
from dataclasses import replace
from datetime import UTC, datetime

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from tuning.page import SearchFacts
from tuning.report import TrialRecord

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\"'&"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e&quot;&#x27;&amp;"
RATE, CLICK, BUY = "training.learning_rate", "weighting.weights.click", "weighting.weights.purchase"
SPACE = {
    RATE: FloatDistribution(1e-4, 1e-1, log=True),
    "model.width": IntDistribution(16, 128, step=16),
    "model.backbone.kind": CategoricalDistribution(["gru", "transformer"]),
    "model.dropout": CategoricalDistribution([None, 0.1, 0.2]),
    "tasks.click.calibrated": CategoricalDistribution([True, False]),
    CLICK: FloatDistribution(0.1, 10.0, log=True),
    BUY: FloatDistribution(0.1, 10.0, log=True),
}
HEADS = {"model.backbone[transformer].heads": IntDistribution(1, 8)}
EPOCHS = 10


def draw(random_state, space):
    found = {}
    for path, known in space.items():
        if isinstance(known, CategoricalDistribution):
            found[path] = random_state.choice(known.choices)
        elif isinstance(known, IntDistribution):
            found[path] = random_state.randrange(known.low, known.high + 1, known.step)
        else:
            found[path] = math.exp(random_state.uniform(math.log(known.low), math.log(known.high)))
    return found


def quality(values, epoch):
    off = abs(math.log10(values[RATE]) + 2.5) + 0.3 * abs(math.log10(values[CLICK] / values[BUY]) - 0.3)
    return 0.78 - 0.05 * off - 0.2 * math.exp(-epoch / 2)


def trial(number, values, status, random_state):
    """Return the record, the curve and Optuna's trial of one training."""
    epochs = {"finished": EPOCHS, "stopped": random_state.choice([1, 3]), "failed": 0}[status]
    curve = [(epoch, quality(values, epoch) + random_state.gauss(0, 0.004)) for epoch in range(1, epochs + 1)]
    best = max(curve, key=lambda point: point[1], default=(None, None))
    reason = "ValueError: loss is nan\nsee the log" if status == "failed" else None
    record = TrialRecord(number, values, status, best[1], best[0], epochs, 12.3 * epochs + 1, reason)
    state = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}[status]
    return record, curve, state


def facts(number=36, objectives=("click.auc",), space=SPACE, statuses=None, **more):
    random_state = random.Random(0)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"][: len(objectives)])
    records, curves = [], {}
    for at in range(number):
        values = draw(random_state, space)
        values |= draw(random_state, HEADS) if values.get("model.backbone.kind") == "transformer" else {}
        chosen = random_state.choices(["finished", "stopped", "failed"], [6, 4, 1])[0] if at else "finished"
        record, curves[at], state = trial(at, values, (statuses or {}).get(at, chosen), random_state)
        records.append(record)
        found = [record.value, record.seconds * values.get("model.width", 64) / 64, record.seconds][: len(objectives)]
        known = {path: (space | HEADS)[path] for path in values}
        is_complete = state == TrialState.COMPLETE
        study.add_trial(
            create_trial(state=state, values=found if is_complete else None, params=values, distributions=known)
        )
    ended = [record for record in records if record.status == "finished"]
    made = SearchFacts(
        project="shop",
        study_id="20260301-101112",
        created=datetime(2026, 3, 1, 10, 11, tzinfo=UTC),
        facts={"dataset": "shop/0007", "searcher": "TPE", "scheduler": "asha", "seed": "0"},
        objectives=objectives,
        minimised=(False, True, True)[: len(objectives)],
        records=records,
        curves=curves,
        study=study,
        best=max(ended, key=lambda record: record.value).number if ended else None,
        config="num_trials: 36\nmetric: click.auc\n",
        place="store/studies/shop/20260301-101112",
    )
    return replace(made, **more)
