"""What torch's translators say: nothing while they work, a line where they cannot."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings of translators, which are about their own insides, off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def reason(error: Exception) -> str:
    """Return in a line what a translator says against a backbone."""
    text = str(error.__cause__ or error).strip()
    fixed = re.match(r"Constraints violated \((\w+)\)", text)
    if fixed:
        return f"its graph would hold for one {fixed[1]} only"
    lacking = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
    if lacking:
        return f"ONNX has nothing for its {lacking[1]}"
    return next(iter(text.splitlines()), type(error).__name__)
