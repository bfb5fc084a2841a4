"""The MLflow store: made once under a lock by the parent, so that children only ever open it.

Several processes that open a fresh SQLite store at once all fail: each tries to create its tables.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("tokensieve.tracking")

SQLITE = "sqlite:///"
LOCK_SECONDS = 120.0
TAG_CHARACTERS = 5000  # of older servers; newer ones take 8000
RUN_ID_FILE = "mlflow_run_id"
PARENT_TAG = "mlflow.parentRunId"
RECORD_TAG = "tokensieve.record"
REASON_CHARACTERS = 200


def default_uri(output_dir: Path | str) -> str:
    """SQLite store of an output folder, as an absolute path: children may run in other folders.

    >>> default_uri("/data/outputs")
    'sqlite:////data/outputs/mlflow.db'
    """
    return f"{SQLITE}{Path(output_dir).absolute() / 'mlflow.db'}"


def preload(uri: str | None = None) -> None:
    """Import what a client of `uri` needs (about 4 s the first time); silences MLflow's telemetry and INFO lines."""
    for key, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
        # The defaults wait for minutes on a server that is down.
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
        ("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1"),
    ):
        os.environ.setdefault(key, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.tracking

        if uri is None or not uri.startswith("http"):
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    for name in ("mlflow", "alembic"):  # already set up where somebody imported mlflow before us
        if logging.getLogger(name).getEffectiveLevel() < logging.WARNING:
            logging.getLogger(name).setLevel(logging.WARNING)


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store and the id of the experiment in it; creates, under a file lock, what is missing.

    A store in a local SQLite file keeps its artefacts in `mlartifacts` beside it; a server decides for itself.
    """
    preload(uri)
    from mlflow import MlflowClient

    with _store_lock(uri), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        if found is not None:
            return client, str(found.experiment_id)
        artefacts = (_sqlite_file(uri).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None
        # The kind makes MLflow's page open on runs and their charts, not on its tools for agents.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        return client, str(client.create_experiment(experiment, artifact_location=artefacts, tags=kind))


def attempt(action: Callable[[], object], on_failure: Callable[[Exception], None]) -> bool:
    """Run `action`; whatever it raises goes to `on_failure`. MLflow's failures have no common type."""
    try:
        action()
    except Exception as error:  # the only place where tracking's failures end
        on_failure(error)
        return False
    return True


def metric_name(key: str) -> str:
    """`key` in the characters that MLflow takes in the name of a metric, parameter or tag.

    >>> metric_name("eval/code/pass@1 [%]")
    'eval/code/pass_at_1 ___'
    """
    return re.sub(r"[^\w./\- :]", "_", key.replace("@", "_at_"), flags=re.ASCII)[:250]


def upload(client: MlflowClient, run_id: str, path: Path) -> None:
    """Log a file, or a folder under its own name."""
    if path.is_dir():
        client.log_artifacts(run_id, str(path), artifact_path=path.name)
    else:
        client.log_artifact(run_id, str(path))


def open_run(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    *,
    tags: Mapping[str, str],
    run_id: str | None,
    record: str | None = None,
    may_exist: bool = False,
    start_milliseconds: int | None = None,
) -> str:
    """Create a run, or continue run `run_id` where the store still has it; status RUNNING. Returns its id.

    `record` names what the run is a record of. With `may_exist` a run of that record is looked for before one is
    created: it may have been made by a process that died before it could note the id.
    """
    from mlflow.entities import RunTag

    every = {"mlflow.source.type": "LOCAL", "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.user": _user()}
    every |= {key: cut(value, TAG_CHARACTERS) for key, value in tags.items()}
    if record is not None:
        every[RECORD_TAG] = record
    known = run_id if run_id is not None and _is_active(client, run_id) else None
    if known is None and record is not None and may_exist:
        found = client.search_runs([experiment_id], f"tags.`{RECORD_TAG}` = '{record}'", max_results=1)
        known = str(found[0].info.run_id) if found else None
    if known is None:
        created = client.create_run(experiment_id, start_time=start_milliseconds, run_name=name, tags=every)
        return str(created.info.run_id)
    client.update_run(known, status="RUNNING", name=name)
    client.log_batch(known, tags=[RunTag(key, value) for key, value in every.items()])
    return known


def _is_active(client: MlflowClient, run_id: str) -> bool:
    """Whether the store has the run. A store that fails is not one that has none: a second run would be made."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise


def warn(uri: str, error: Exception, consequence: str = "the sweep goes on without it") -> None:
    """One line with the reason; never a traceback."""
    log.warning("MLflow at %s does not work (%s); %s.", uri, reason_of(error), consequence)


def reason_of(error: Exception) -> str:
    """Why MLflow failed, in one line."""
    text = str(error).strip()
    if len(text) > REASON_CHARACTERS:  # HTTP clients wrap the reason into what they tried; it is at the root
        root: BaseException = error
        while (deeper := root.__cause__ or root.__context__) is not None:
            root = deeper
        text = str(root).strip() or text
    return cut((text or type(error).__name__).splitlines()[0], REASON_CHARACTERS)


def cut(text: str, limit: int, ending: str = "…") -> str:
    """
    >>> cut("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - len(ending)] + ending


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return "unknown"


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix(SQLITE).split("?")[0]).absolute()


@contextlib.contextmanager
def _store_lock(uri: str) -> Iterator[None]:
    if not uri.startswith(SQLITE):
        yield
        return
    from filelock import FileLock

    file = _sqlite_file(uri)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
        yield
