"""A child process whose fork ends the process that serves."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from tokensieve.graders.isolated.serve import serve


def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
    if request["what"] == "kill the server":
        os.kill(os.getppid(), signal.SIGKILL)
    if request["what"] == "raise":
        raise RuntimeError
    if request["what"] == "eat memory":
        return {"size": len(b"x" * 2**33)}
    if request["what"] == "print":
        print("not a reply")
        print("not a reply", file=sys.stderr)
    return {"done": request["what"], "token": os.environ.get("HF_TOKEN")}


if __name__ == "__main__":
    serve(answer)
