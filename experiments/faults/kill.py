"""Kill sweeps wherever they can be killed, resume them, and compare them with undisturbed ones.

    python experiments/faults/kill.py [--quick] [--kills 54] [--seed 0] [--output FILE] [--keep FOLDER]

SIGKILL of a job at every stage boundary and at random moments inside stages, of the sweep's own process, of a rank of
a two-rank fit, of the tracking server. Nothing in the library helps: stages are seen in the runs' status.json,
processes in /proc. In the end every result must equal the undisturbed sweep's bit for bit, no finished run may have
been touched again, nothing half-written may have been read, and the tracking server, after `tokensieve sync`, must
hold every run whole. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from outcome import (
    complaints,
    damaged_entries,
    differences,
    fit_starts,
    read_curve,
    read_manifest,
    read_results,
    sweep_folder,
)
from processes import ROOT, TrackingServer
from trial import Kill, Trial

SMALL = ["trainer.checkpoint_seconds=0.001", "trainer.accelerator=cpu", "eval.max_new_tokens=8", "eval.num_items=4",
         "trainer.batch_size=4", "sweep.controls=[]"]  # fmt: skip
SINGLE = [*SMALL, "trainer.micro_batch_size=4", "trainer.max_steps=6", "eval.tasks=[lab_sql]"]
RANKS = [*SMALL, "trainer=ddp", "trainer.devices=2", "trainer.micro_batch_size=2", "trainer.max_steps=60",
         "eval.tasks=[]", "dataset.num_train=32"]  # fmt: skip
AXES = ["stm.threshold=2.5,4", "dataset.num_train=20,24,28,32"]
NUM_RANK_KILLS, NUM_SERVER_KILLS = 4, 4


def undisturbed(name: str, folder: Path, arguments: list[str], server: TrackingServer | None) -> dict[str, Any]:
    """Results of a sweep that nobody kills, and the seconds of its stages."""
    trial = Trial(name, folder / f"{name}_undisturbed", arguments, folder / f"{name}_undisturbed.txt", [], server)
    trial.run()
    runs = sweep_folder(trial.output_dir).glob("jobs/*/result.json")
    seconds = json.loads(next(iter(sorted(runs))).read_text())["seconds"]
    return {"results": read_results(trial.output_dir), "seconds": seconds}


def stages_of(plain: dict[str, Any]) -> list[str]:
    return ["start", *plain["seconds"]]


def schedule(seconds: dict[str, float], num_kills: int, chance: random.Random) -> list[Kill]:
    """Every boundary for the job and for the sweep in turn, then moments inside the stages, longer ones oftener."""
    stages = ["start", *seconds]  # every boundary is the beginning of one of these
    kills = [Kill("job", stage) for stage in stages]
    kills += [Kill("sweep", stage) for stage in stages[:: max(1, len(stages) // 6)]]
    kills += [Kill("server", "fit", chance.uniform(0, seconds["fit"] / 2)) for _ in range(NUM_SERVER_KILLS)]
    names, weights = list(seconds), [value + 0.05 for value in seconds.values()]
    while len(kills) < num_kills:
        stage = chance.choices(names, weights)[0]
        target = "sweep" if chance.random() < 0.15 else "job"
        kills.append(Kill(target, stage, chance.uniform(0, seconds[stage])))
    jobs = [kill for kill in kills if kill.target == "job"]
    chance.shuffle(jobs)
    return jobs + [kill for kill in kills if kill.target != "job"]


def judge(trial: Trial, expected: dict[str, Any]) -> dict[str, Any]:
    """What the kills changed: every list must be empty."""
    folder = sweep_folder(trial.output_dir)
    runs = [folder / entry["dir"] for entry in read_manifest(trial.output_dir)["jobs"]]
    built = {run.name: (run / "log.txt").read_text(errors="replace").count(" fit built (") for run in runs}
    return {
        "kills": trial.done,
        "kills_by_target": dict(Counter(kill["target"] for kill in trial.done)),
        "stages_killed_in": dict(Counter(kill["found"] for kill in trial.done)),
        "sessions_of_the_sweep": trial.sessions,
        "starts_of_jobs": trial.starts,
        "fits_from_the_first_step": {run.name: fit_starts(run) for run in runs},
        "faults": {
            "not_killed": [str(kill) for kill in trial.pending],
            "different": differences(expected, read_results(trial.output_dir)),
            "touched_after_finishing": trial.touched,
            "fits_completed_twice": [name for name, count in built.items() if count > 1],
            "damaged_entries": damaged_entries(trial.output_dir),
            "read_half_written": complaints(trial.output_dir),
        },
    }


def check_tracking(trial: Trial) -> dict[str, Any]:
    """Send what the server missed; then every job must be there once, whole, under its sweep."""
    from mlflow import MlflowClient

    assert trial.server is not None
    trial.server.start()
    folder = sweep_folder(trial.output_dir)
    command = [sys.executable, "-m", "tokensieve", "sync", str(folder)]
    said = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    client = MlflowClient(trial.server.uri)
    experiment = client.get_experiment_by_name("tokensieve")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.info.run_id for run in runs if run.info.run_name == read_manifest(trial.output_dir)["name"]}
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
    faults = []
    for entry in read_manifest(trial.output_dir)["jobs"]:
        found = [run for run in children if run.data.tags.get("job_id") == entry["id"]]
        # The undisturbed sweep has the same jobs on the same server.
        if len(found) != 2 or any(run.info.status != "FINISHED" for run in found):
            faults.append(f"{entry['dir']}: {[run.info.status for run in found]}")
            continue
        for run in found:
            steps = {point.step for point in client.get_metric_history(run.info.run_id, "train/nll")}
            if steps != set(read_curve(folder / entry["dir"])["train/nll"]):
                faults.append(f"{entry['dir']}: steps {sorted(steps)}")
            if not {"result.json", "adapter", "config.yaml"} <= {
                file.path for file in client.list_artifacts(run.info.run_id)
            }:
                faults.append(f"{entry['dir']}: artefacts are missing")
    return {"sync": [text.splitlines()[-1] for text in said], "faults": {"tracking": faults}}


def try_few(folder: Path) -> dict[str, Any]:
    """Three kills, without a server."""
    arguments = [*SINGLE, "stm.threshold=1.5,2.5,4"]
    kills = [Kill("job", "fit", 0.3), Kill("job", "score"), Kill("sweep", "fit")]
    plain = undisturbed("jobs", folder, arguments, None)
    trial = Trial("jobs", folder / "jobs", arguments, folder / "jobs.txt", kills, order=stages_of(plain))
    trial.run()
    return {"jobs": judge(trial, plain["results"])}


def try_jobs(folder: Path, num_kills: int, chance: random.Random) -> dict[str, Any]:
    """Kills of jobs, sweeps and the tracking server."""
    server, arguments = TrackingServer(folder / "server"), [*SINGLE, *AXES]
    try:
        server.start()
        plain = undisturbed("jobs", folder, arguments, server)
        kills = schedule(plain["seconds"], num_kills, chance)
        trial = Trial("jobs", folder / "jobs", arguments, folder / "jobs.txt", kills, server, stages_of(plain))
        trial.run()
        late, trial.pending = trial.pending, []
        found = {"jobs": judge(trial, plain["results"]), "tracking": check_tracking(trial)}
        for name in ("late", "later", "latest"):  # every job had finished before these could strike: other sweeps do
            if not late:
                break
            trial = Trial(name, folder / name, arguments, folder / f"{name}.txt", late, server, stages_of(plain))
            trial.run()
            if name != "latest":
                late, trial.pending = trial.pending, []
            found[name] = judge(trial, plain["results"])
        return found
    finally:
        server.kill()


def try_ranks(folder: Path, chance: random.Random) -> dict[str, Any]:
    """Kills of either rank of a fit: two in the middle of the steps, two while the ranks start or begin."""
    arguments = [*RANKS, "seed=1"]
    plain = undisturbed("ranks", folder, arguments, None)
    kills = [Kill(f"rank {rank}", "fit", chance.uniform(0, 0.3), after_checkpoint=True) for rank in (0, 1)]
    kills += [Kill(f"rank {rank}", "fit", chance.uniform(0, 12)) for rank in (0, 1)]
    trial = Trial("ranks", folder / "ranks", arguments, folder / "ranks.txt", kills, order=stages_of(plain))
    trial.run()
    return {"ranks": judge(trial, plain["results"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three kills, one sweep, no server")
    parser.add_argument("--kills", type=int, default=54)
    parser.add_argument("--only", choices=("jobs", "ranks"), help="one of the two trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        chance, found = random.Random(f"kills/{options.seed}"), {}
        if options.quick:
            found = try_few(folder)
        if not options.quick and options.only != "ranks":
            found |= try_jobs(folder, options.kills - NUM_RANK_KILLS, chance)
        if not options.quick and options.only != "jobs":
            found |= try_ranks(folder, chance)
    kills = sum(len(part.get("kills", ())) for part in found.values())
    faults = [f"{name}: {kind}: {text}" for name, part in found.items()
              for kind, texts in part["faults"].items() for text in texts]  # fmt: skip
    found |= {"num_kills": kills, "num_faults": len(faults), "seconds": round(time.monotonic() - start, 1)}
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    else:
        print(json.dumps(found, indent=1))
    print("\n".join(faults[:40]))
    print(f"{kills} kills in {found['seconds']:.0f} s: {'results equal bit for bit' if not faults else 'FAULTS'}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
