"""A quarter of the bytes: tables and matrices in eight bits, each row with a scale of its own."""

from dataclasses import replace

from raysys.model.stored import as_int8
from serving.export.kind import Draft, Kind
from serving.export.weights import matrices


class Int8(Kind):
    """Stores eight bits and computes in float32; with `onnx`, the program's matrix products are in eight bits too."""

    stage = "weights"

    def apply(self, draft: Draft) -> Draft:
        """Round the weights."""
        return replace(draft, state=as_int8(draft.state, matrices(draft.network) & draft.state.keys()))
