"""GET /metrics: the replica's numbers for Prometheus."""

from serving.endpoints.endpoint import Call, Endpoint, Raw


async def metrics(call: Call) -> Raw:
    """Return the numbers of this replica in the text format of Prometheus; docs/serving-operations.md lists them."""
    numbers, service = call.replica.metrics, call.replica.service
    run_id, waiting = (None, 0) if service is None else (service.run_id, service.num_waiting)
    return Raw(numbers.text(run_id, waiting), numbers.kind)


ENDPOINT = Endpoint("GET", "/metrics", "Numbers for Prometheus", metrics, None, tag="operations", needs_run=False)
