"""A Slurm of one machine for tests: this file under the names sbatch, srun, sacct, scancel and scontrol.

`install(folder)` makes them; put `folder` first on PATH. Jobs start at once, or wait where a file `full` lies there.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(sys.argv[0]).absolute().parent


def install(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        path = folder / name
        path.write_text(f"#!{sys.executable} -S\n{Path(__file__).read_text()}")
        path.chmod(0o755)


def read(job: str) -> dict[str, object]:
    for _ in range(100):
        try:
            values: dict[str, object] = json.loads((HERE / f"{job}.job").read_text())
        except (OSError, ValueError):
            time.sleep(0.01)
        else:
            return values
    raise SystemExit(f"no job {job}")


def write(job: str, **values: object) -> None:
    path = HERE / f"{job}.job"
    known = json.loads(path.read_text()) if path.exists() else {}
    aside = HERE / f"{job}.{os.getpid()}"
    aside.write_text(json.dumps(known | values))
    aside.replace(path)


def sbatch(file: str) -> None:
    text = Path(file).read_text()
    if "--partition=closed" in text:
        raise SystemExit("sbatch: error: invalid partition specified: closed")
    with (HERE / "sbatch.log").open("a") as log:
        log.write(text)
    number = 100 + len(list(HERE.glob("*.sh")))
    script = HERE / f"{number}.sh"
    script.write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    jobs = [f"{number}_{at}" for at in range(int(array[1]) + 1)] if array else [str(number)]
    for job in jobs:
        write(job, state="PENDING")
        process = subprocess.Popen(
            [sys.executable, "-S", str(HERE / "sbatch"), "--run", job, str(script)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        process.returncode = 0  # it outlives this process
    print(f"Submitted batch job {number}")


def option(text: str, name: str) -> int:
    found = re.search(rf"--{name}=(\d+)", text)
    return int(found[1]) if found else 1


def run(job: str, script: str) -> None:
    main, _, index = job.partition("_")
    text = Path(script).read_text()
    nodes, tasks = option(text, "nodes"), option(text, "ntasks-per-node")
    environment = os.environ | {"SLURM_JOB_ID": main + index, "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_NNODES": str(nodes),
                                "SLURM_NTASKS": str(nodes * tasks), "SLURM_NTASKS_PER_NODE": str(tasks),
                                "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_NODELIST": "127.0.0.1"}  # fmt: skip
    if index:
        environment |= {"SLURM_ARRAY_JOB_ID": main, "SLURM_ARRAY_TASK_ID": index}
    while True:
        while (HERE / "full").exists():
            time.sleep(0.05)
            if str(read(job)["state"]).startswith("CANCELLED"):
                return
        process = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
        write(job, state="RUNNING", group=process.pid)
        process.wait()
        state = str(read(job)["state"])
        if state == "REQUEUED":
            time.sleep(1.0)
            continue
        if not state.startswith("CANCELLED"):
            write(job, state="COMPLETED" if process.returncode == 0 else "FAILED")
        return


def fill(path: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        path = path.replace(name, value)
    return path


def srun(arguments: list[str]) -> None:
    output, error = (arguments[arguments.index(name) + 1] for name in ("--output", "--error"))
    command = arguments[arguments.index("--kill-on-bad-exit=1") + 1 :]
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
    index = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    tasks = []
    for rank in range(int(os.environ["SLURM_NTASKS"])):
        per_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
        names = {"%A": job, "%a": index, "%j": job, "%t": str(rank)}
        out, err = (fill(path, names) for path in (output, error))
        places = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % per_node, "SLURM_NODEID": rank // per_node}
        with open(out, "a") as stdout, open(err, "a") as stderr:
            environment = os.environ | {name: str(value) for name, value in places.items()}
            tasks.append(subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr))
    signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
    codes: list[int] = []
    while len(codes) < len(tasks):
        codes = [code for task in tasks if (code := task.poll()) is not None]
        if any(codes):
            for task in tasks:
                task.terminate()
        time.sleep(0.05)
    raise SystemExit(max(map(abs, codes)))


def known(ids: list[str]) -> Iterator[str]:
    for name in ids:
        yield from sorted(
            path.stem for path in HERE.glob("*.job") if path.stem.partition("_")[0] == name or path.stem == name
        )


def sacct(arguments: list[str]) -> None:
    print("JobID|State|NodeList")
    for job in known([value for name, value in itertools.pairwise(arguments) if name == "-j"]):
        print(f"{job}|{read(job)['state']}|here")


def scancel(arguments: list[str]) -> None:
    force = "--signal=KILL" in arguments
    with (HERE / "scancel.log").open("a") as log:
        log.write(" ".join(arguments) + "\n")
    for job in known([name for name in arguments if not name.startswith("-")]):
        values = read(job)
        if values["state"] in ("PENDING", "RUNNING", "REQUEUED"):
            write(job, state="CANCELLED by 0")
        if values["state"] == "RUNNING":
            os.killpg(int(str(values["group"])), signal.SIGKILL if force else signal.SIGTERM)


def main(name: str, arguments: list[str]) -> None:
    if name == "sbatch" and arguments[0] == "--run":
        run(*arguments[1:])
    elif name == "sbatch":
        sbatch(*arguments)
    elif name == "scontrol":
        assert arguments[0] == "requeue"
        write(arguments[1], state="REQUEUED")
    else:
        {"srun": srun, "sacct": sacct, "scancel": scancel}[name](arguments)


if __name__ == "__main__":
    main(Path(sys.argv[0]).name, sys.argv[1:])
