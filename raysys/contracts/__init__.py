"""Contract tests over the registries: `pytest --pyargs raysys.contracts`, with `-p your.plugin` for your own parts."""
