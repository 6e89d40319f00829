"""The model of a run behind LitServe: python litserve_app.py RUN PORT."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import litserve as ls


class Recommender(ls.LitAPI):
    def __init__(self, run: str) -> None:
        super().__init__(api_path="/v1/recommend", max_batch_size=32, batch_timeout=0.0)
        self._run = run

    def setup(self, device: str) -> None:
        import torch

        from raysys.runs import Run
        from serving.answers.encoding import with_history
        from serving.answers.question import Question
        from serving.answers.retrieval import Retrieval
        from serving.config import AnswerConfig
        from serving.users.state import NOBODY

        torch.set_num_threads(1)
        run = Run.open(self._run)
        self._answers, event = Retrieval(run, AnswerConfig()).answers, run.manifest.history[0]
        self._question = lambda body: Question(with_history(NOBODY, body["history"], event), k=body.get("k", 10))

    def predict(self, bodies: list[dict[str, Any]]) -> list[Any]:
        return self._answers([self._question(body) for body in bodies])

    def encode_response(self, answer: Any) -> dict[str, Any]:
        return {"items": [asdict(item) for item in answer.items]}


if __name__ == "__main__":
    server = ls.LitServer(Recommender(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
