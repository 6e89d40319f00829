"""Where Optuna keeps the record of a search: a file beside it, or a database that others see too."""

from pathlib import Path
from typing import TYPE_CHECKING

from raysys.configfile import read_yaml
from raysys.errors import UserError
from tuning.study import Study

if TYPE_CHECKING:
    import optuna


def open_storage(study: Study, url: str | None) -> "optuna.storages.BaseStorage":
    """Return the storage of a study: its journal, or the database at a URL of SQLAlchemy.

    Raises:
        UserError: the database cannot be opened.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if url is None:
        return optuna.storages.JournalStorage(JournalFileBackend(str(study.journal)))
    try:
        return optuna.storages.RDBStorage(url)
    except Exception as error:  # of SQLAlchemy, of a driver, or that there is none
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"storage: {url}: cannot be opened: {reason}") from None


def open_earlier(path: str | Path) -> "optuna.Study":
    """Return Optuna's record of a search that was run before.

    Raises:
        UserError: there is none.
    """
    study = Study.open(path)
    return load_record(study, read_yaml(study.path / "tune.yaml").get("storage"))


def load_record(study: Study, url: str | None, sampler: "optuna.samplers.BaseSampler | None" = None) -> "optuna.Study":
    """Return Optuna's record of a study that has begun. A journal has but one, wherever its directory has been moved.

    Raises:
        UserError: the storage does not know the study.
    """
    import optuna

    storage, name = open_storage(study, url), None if url is None else study.name
    try:
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler)
    except (KeyError, ValueError):
        known = "" if url is None else f" under {study.name!r}, the name that its directory gave it"
        raise UserError(
            f"{study.path}: {url or study.journal} has no record of it{known}; run the search anew"
        ) from None
