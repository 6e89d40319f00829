"""The evaluation station: full ranking and point-wise metrics with intervals, beside popularity. Never imports ray."""
