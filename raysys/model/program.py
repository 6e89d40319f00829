"""A backbone that was translated into a program beforehand, and runs outside torch's interpreter.

What the program computes is the states of tokens. Vectors of items, fields of tokens and everything behind the states
stay in torch, so a run with a program has every task that it had, and its weights hold no table twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raysys.data.batches import History
from raysys.errors import UserError
from raysys.model.backbones.backbone import Backbone
from raysys.model.items.encoder import ItemVectors

INPUTS = ("tokens", "items", "events", "times", "mask")
"""What a program is given, in order: f32 [B, L, D], then i64 [B, L] three times, then bool [B, L]."""


class Program(ABC):
    """A translated backbone."""

    file: str
    """Its name in the directory of a run."""

    @abstractmethod
    def __init__(self, path: Path) -> None:
        """Load the program; it takes as many threads as torch has now."""

    @abstractmethod
    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the states [B, L, D] for the INPUTS, all on the CPU."""


class CompiledProgram(Program):
    """Machine code of AOTInductor: for one version of torch, and for processors with the same instructions."""

    file = "backbone.pt2"

    def __init__(self, path: Path) -> None:
        from torch._inductor import aoti_load_package  # imports a compiler's worth of modules

        self._run: Any = aoti_load_package(str(path))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run on torch's own tensors."""
        states: Tensor = self._run(*inputs)
        return states


class OnnxProgram(Program):
    """An ONNX graph under ONNX Runtime."""

    file = "backbone.onnx"

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{path}: needs ONNX Runtime; install it with `pip install raysys[onnx]`") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        known = {found.name for found in self._session.get_inputs()}
        self._names = {at: name for at, name in enumerate(INPUTS) if name in known}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Hand the tensors' memory over, without a copy."""
        given = {name: inputs[at].contiguous().numpy() for at, name in self._names.items()}
        return torch.from_numpy(self._session.run(None, given)[0])


PROGRAMS: tuple[type[Program], ...] = (CompiledProgram, OnnxProgram)


class ProgramBackbone(Backbone):
    """Stands in the place of the backbone that a program was made of. It cannot be trained."""

    def __init__(self, original: Backbone, program: Program) -> None:
        """Take over what stands around the program: the fields of tokens."""
        torch.nn.Module.__init__(self)
        self.token_fields = original.token_fields
        self._program = program

    def forward(self, history: History, vectors: ItemVectors) -> Tensor:
        """Look the tokens up, and let the program do the rest on the CPU, wherever they are."""
        inputs = (
            self.tokens(history, vectors),
            history.items_BL,
            history.events_BL,
            history.times_BL,
            history.mask_BL,
        )
        return self._program(*(part.detach().cpu() for part in inputs)).to(inputs[0].device)


def made_with() -> dict[str, str]:
    """Return what machine code depends on: the version of torch, and the instructions of this processor."""
    return {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}


def find_program(path: Path, made: Mapping[str, str]) -> Program | None:
    """Load the program of a run's directory; None where there is none.

    Raises:
        UserError: it was compiled for something else than this.
    """
    for kind in PROGRAMS:
        if not (path / kind.file).is_file():
            continue
        if kind is CompiledProgram and dict(made) != (here := made_with()):
            was, now = (" on ".join(facts.values()) for facts in (made, here))
            raise UserError(f"{path / kind.file}: compiled by torch {was}, this is torch {now}; export it again here")
        return kind(path / kind.file)
    return None
