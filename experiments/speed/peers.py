"""The peers' own environment: a folder beside the tested set, which stays as the lock file says.

TRL and Hydra's joblib launcher are installed there without their dependencies, so that torch, transformers and PEFT are
the very ones that this package runs on. Who wants a peer puts the folder last on the path.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
REQUIREMENTS = ("trl==1.16.0", "hydra-joblib-launcher==1.4.0rc3")


def install_peers() -> dict[str, str]:
    """Install what is missing; returns the versions that the results report.

    Raises:
        SystemExit: pip failed.
    """
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {
            entry.metadata["Name"]: entry.version for entry in importlib.metadata.distributions(path=[str(FOLDER)])
        }
        missing = [
            wanted for wanted in REQUIREMENTS if wanted not in {f"{name}=={version}" for name, version in found.items()}
        ]
        if missing:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            done = subprocess.run([*pip, "--upgrade", "--target", str(FOLDER), *missing])
            if done.returncode:
                raise SystemExit(f"the peers cannot be installed ({', '.join(missing)})")
    return dict(wanted.split("==") for wanted in REQUIREMENTS)


def peer_environment() -> dict[str, str]:
    """The environment of a process that is to find the peers."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
