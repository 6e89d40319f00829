"""GET /metrics: the replica's numbers for Prometheus."""

from serving.endpoints.endpoint import Call, Endpoint, Raw


async def metrics(call: Call) -> Raw:
    """Return the numbers of this replica in the text format of Prometheus; docs/serving-operations.md lists them."""
    numbers = call.replica.metrics
    return Raw(numbers.text(call.replica.service), numbers.kind)


ENDPOINT = Endpoint("GET", "/metrics", "Numbers for Prometheus", metrics, None, tag="operations", needs_run=False)
