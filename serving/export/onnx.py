"""The backbone as an ONNX graph, which ONNX Runtime runs: here, or wherever else there is one."""

import importlib.util
from pathlib import Path

import torch

from raysys.errors import UserError
from raysys.model.program import INPUTS, OnnxProgram
from serving.export.graph import Encoder, refusal, without_backbone
from serving.export.kind import Draft, Kind
from serving.export.translating import quiet, reason

_NEEDS = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Kind):
    """Where the weights are in eight bits, so are the graph's matrix products, with activations scaled as they come."""

    stage = "program"

    def apply(self, draft: Draft) -> Draft:
        """Translate, load and compare."""
        if any(importlib.util.find_spec(name) is None for name in _NEEDS):
            raise UserError(f"onnx: needs {', '.join(_NEEDS)}; install them with `pip install raysys[onnx]`")
        encoder, path = Encoder(draft, "onnx").eval(), draft.folder / OnnxProgram.file
        try:
            with torch.no_grad(), quiet():
                _translate(encoder, path)
        except (RuntimeError, TypeError) as error:
            raise refusal("onnx", encoder.name, reason(error)) from None
        _check(encoder, path)
        if any(tensor.dtype == torch.int8 for tensor in draft.state.values()):
            _quantise(path)
        return without_backbone(draft)


def _check(encoder: Encoder, path: Path) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    refused = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented, errors.RuntimeException)
    try:
        encoder.check(OnnxProgram(path), "onnx")
    except refused as error:
        raise refusal("onnx", encoder.name, reason(error)) from None


def _translate(encoder: Encoder, path: Path) -> None:
    import onnx

    program = torch.onnx.export(
        encoder,
        encoder.example(3, min(7, encoder.most)),
        input_names=list(INPUTS),
        output_names=["states"],
        dynamic_shapes=encoder.shapes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]  # around a recurrence, these and the next are the shapes of the example
    for value in (*model.graph.input, *model.graph.output):
        for at, name in enumerate(("users", "length")):
            value.type.tensor_type.shape.dim[at].dim_param = name
    onnx.save(model, path)


def _quantise(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(path, path, weight_type=QuantType.QInt8, per_channel=True)
