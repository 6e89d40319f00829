"""Requests made from the OpenAPI document: valid, invalid and odd ones, against the real gateway over a real run."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from serving.access.keys import SCOPES, add_key
from serving.endpoints import ENDPOINTS
from serving.http.gateway import Gateway

pytestmark = pytest.mark.thorough
EXAMPLES = 50
# The document cannot say that exactly one of two keys is given, nor what k_max is.
BEYOND = [positive_data_acceptance]


@pytest.fixture(scope="module")
def document(tiny_run, serve, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    access = {"keys": str(root / "keys.json"), "audit": str(root / "audit.jsonl")}
    key = add_key(root / "keys.json", "fuzz", SCOPES)
    gateway = Gateway(serve(tiny_run, root, access=access))
    return schemathesis.openapi.from_asgi("/openapi.json", gateway), {"authorization": f"Bearer {key}"}


def cases():
    for name, endpoint in ENDPOINTS.items():
        yield pytest.param(endpoint, GenerationMode.POSITIVE, id=f"{name}-valid")
        if endpoint.body is not None or "{" in endpoint.path:
            yield pytest.param(endpoint, GenerationMode.NEGATIVE, id=f"{name}-invalid")


@pytest.mark.parametrize(("endpoint", "mode"), cases())
def test_answers_are_what_the_document_says(document, endpoint, mode):
    schema, headers = document
    operation = schema[endpoint.path][endpoint.method]
    statuses = set()

    @settings(max_examples=EXAMPLES, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        response = case.call(headers=headers)
        statuses.add(response.status_code)
        unread = [negative_data_rejection] if response.status_code == 413 else []
        case.validate_response(response, excluded_checks=[*BEYOND, *unread], headers=headers)

    ask()
    assert statuses
    assert max(statuses) < 500
