"""The backbone as machine code: torch.export, then AOTInductor, which needs a C++ compiler where exports are made."""

import torch

from raysys.model.program import CompiledProgram
from serving.export.graph import Encoder, refusal, without_backbone
from serving.export.kind import Draft, Kind
from serving.export.translating import quiet, reason


class Compiled(Kind):
    """For this version of torch and processors with the same instructions; its own weights stay in float32."""

    stage = "program"

    def apply(self, draft: Draft) -> Draft:
        """Translate, load and compare."""
        from torch._inductor import aoti_compile_and_package

        encoder, path = Encoder(draft, "compiled").eval(), draft.folder / CompiledProgram.file
        try:
            with torch.no_grad(), quiet():
                exported = torch.export.export(
                    encoder, encoder.example(3, min(7, encoder.most)), None, dynamic_shapes=encoder.shapes
                )
                # As many threads as torch has where it runs, not as many as here.
                aoti_compile_and_package(
                    exported, package_path=str(path), inductor_configs={"cpp.dynamic_threads": True}
                )
        except (RuntimeError, TypeError) as error:
            raise refusal("compiled", encoder.name, reason(error)) from None
        encoder.check(CompiledProgram(path), "compiled")
        return without_backbone(draft)
