from raysys.contracts.conftest import contract_dataset  # noqa: F401
