"""The record of a run: `metrics.jsonl` in its folder, always; MLflow beside it, as far as MLflow works.

Tracking can neither stop nor slow a run: MLflow is spoken to by one background thread, and what it refuses costs one
warning. The local record (`metrics.jsonl`, `tracked.jsonl`) is complete without it; `tracking.json` says which store
has all of it, and `Uploader` brings it there later.
"""

from tokensieve.tracking.mlflow_store import default_uri, preload
from tokensieve.tracking.mlflow_sweep import close_sweep, count_incomplete, end_run, open_sweep, prepare_store
from tokensieve.tracking.provenance import git_commit, package_versions
from tokensieve.tracking.run import Tracker, flatten
from tokensieve.tracking.run_names import arm_first
from tokensieve.tracking.upload import Uploader

__all__ = [
    "Tracker",
    "Uploader",
    "arm_first",
    "close_sweep",
    "count_incomplete",
    "default_uri",
    "end_run",
    "flatten",
    "git_commit",
    "open_sweep",
    "package_versions",
    "preload",
    "prepare_store",
]
