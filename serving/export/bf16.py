"""Half the bytes: tables and matrices in bfloat16."""

from dataclasses import replace

from raysys.model.stored import as_bf16
from serving.export.kind import Draft, Kind
from serving.export.weights import matrices


class BF16(Kind):
    """Keeps the exponent of a float32 and 8 bits of its mantissa; computes in float32."""

    stage = "weights"

    def apply(self, draft: Draft) -> Draft:
        """Round the weights."""
        return replace(draft, state=as_bf16(draft.state, matrices(draft.network) & draft.state.keys()))
