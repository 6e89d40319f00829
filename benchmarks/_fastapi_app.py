"""The peer of serve.py: the model of a run behind plain FastAPI and uvicorn, as one writes it in an afternoon.

python benchmarks/_fastapi_app.py RUN PORT
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from raysys.runs import Run
from serving.answers.encoding import with_history
from serving.answers.question import Question
from serving.answers.retrieval import Retrieval
from serving.config import AnswerConfig
from serving.users.state import NOBODY

app = FastAPI()
_thread = ThreadPoolExecutor(1, "model", torch.set_num_threads, (1,))


class Body(BaseModel):
    history: list[str]
    k: int = 10


class Item(BaseModel):
    item_id: str
    title: str | None
    score: float
    scores: dict[str, float]


class Reply(BaseModel):
    items: list[Item]


@app.post("/v1/recommend")
async def recommend(body: Body) -> Reply:
    loop = asyncio.get_running_loop()
    (answer,) = await loop.run_in_executor(_thread, app.state.answers, [app.state.question(body)])
    items = [
        {name: value for name, value in asdict(item).items() if name in Item.model_fields} for item in answer.items
    ]
    return Reply(items=[Item(**item) for item in items])


def main() -> None:
    run = Run.open(sys.argv[1])
    retrieval = Retrieval(run, AnswerConfig())
    event = run.manifest.history[0]
    app.state.answers = retrieval.answers
    app.state.question = lambda body: Question(with_history(NOBODY, body.history, event), k=body.k)
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error", access_log=False)


if __name__ == "__main__":
    main()
