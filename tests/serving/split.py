"""The split of a service in one process: replicas without a model, and the scorers that they ask, without Ray."""

import asyncio
import pickle

from serving.config import ServeConfig
from serving.http.gateway import Gateway
from serving.scoring.scorer import Scorer
from serving.scoring.scorers import ScorerDiedError
from serving.service import Service
from serving.stores import make_store
from serving.users.seeding import seed


class Piped:
    """A Remote: what is asked and answered is pickled, as between processes; a scorer may die, or be away."""

    def __init__(self, scorer):
        self.scorer = scorer
        self.deaths = 0
        """Calls that still die."""
        self.there = asyncio.Event()
        """Whether anybody is there; else calls wait, as Ray lets them."""
        self.there.set()
        self.calls = []

    def __getattr__(self, name):
        async def call(*given):
            await self.there.wait()
            self.calls.append((name, given))
            if name == "answer" and self.deaths:
                self.deaths -= 1
                raise ScorerDiedError
            found = await getattr(self.scorer, name)(*pickle.loads(pickle.dumps(given)))
            return pickle.loads(pickle.dumps(found))

        return call


def user_config(run, root, **settings):
    """Return what replicas and scorers are configured with, and seed the store that they share."""
    given = {"access": {"enabled": False}, "scorer": {}, **settings}
    config = ServeConfig(**given).with_places(str(root), "tests")
    seed(run, config)
    return config.replica(str(run.path)).model_dump()


async def gateway_over(config, piped, metrics=None):
    """Return a gateway whose service asks a scorer."""
    store = make_store(ServeConfig(store=config["store"]).store)
    service = await Service.load(config, store, metrics, piped)
    await service.items.start()
    return Gateway(service)


async def split(config):
    """Return a gateway and the pipe to the scorer that it asks."""
    scorer = Scorer()
    await scorer.reconfigure(config)
    piped = Piped(scorer)
    return await gateway_over(config, piped), piped
