from raysys.contracts.conftest import contract_dataset, contract_reader  # noqa: F401
