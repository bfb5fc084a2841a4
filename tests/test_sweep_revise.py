"""A resumed sweep that is asked for more, or for less, than it began with; and one that is older than the program."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from sweeping import Sweep, manifest, starts, states, sweep_here

from tokensieve.config import RunConfig, StmConfig, WeightConfig, identity, to_plain
from tokensieve.records import digest
from tokensieve.sweep.job_identity import fingerprint, identify


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    return sweep_here(monkeypatch, tmp_path)


def write_arms(**arms: list[str]) -> str:
    Path("arms.yaml").write_text(json.dumps({"arms": arms}))
    return "hydra.sweeper.arms=arms.yaml"


def jobs() -> list[tuple[str, str, str | None]]:
    """(arm and seed, state, control) of each job."""
    return [
        ("/".join(job["name"].split("/")[3:6:2]).split(" ")[0], job["state"], job["control"])
        for job in manifest()["jobs"]
    ]


def change_manifest(**values: Any) -> None:
    [path] = Path("outputs/sweeps").glob("*/sweep.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_seed_is_added_to_a_finished_sweep(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "stm.threshold=1.5,4", "seed=1,2", "optim.lr=0.1") == 0
    assert starts() == 6
    before = manifest()["jobs"]
    assert sweep("finish", "seed=1,2,3", "sweep.resume=latest") == 0
    assert "2 combinations are new" in capsys.readouterr().out
    assert starts() == 9
    values = manifest()
    assert values["jobs"][:6] == before
    assert jobs()[6:] == [
        ("stm=1.5/seed=3", "FINISHED", None), ("stm=4/seed=3", "FINISHED", None),
        ("unmasked/seed=3", "FINISHED", "unmasked"),
    ]  # fmt: skip
    assert values["axes"] == {"stm.threshold": ["1.5", "4"], "seed": ["1", "2", "3"]}
    assert "seed=1,2,3" in values["command"]
    assert "stm.threshold=1.5,4" in values["command"]
    assert "sweep.resume" not in values["command"]
    assert sweep("finish", "sweep.resume=latest") == 0
    assert sweep("finish", "stm.threshold=1.5,4", "seed=1,2,3", "optim.lr=0.1", "sweep.resume=latest") == 0
    assert starts() == 9
    assert manifest()["jobs"] == values["jobs"]


def test_an_arm_and_a_seed_are_added_to_the_file(sweep: Sweep) -> None:
    arms = write_arms(one=["stm=none"], two=["stm.threshold=4"])
    assert sweep("fail_first_time", arms, "seed=1,2", "sweep.controls=[]") == 1
    assert [state for _, state, _ in jobs()] == ["FINISHED", "FINISHED", "FAILED", "FAILED"]
    write_arms(one=["stm=none"], two=["stm.threshold=4"], three=["stm=none", "lora=r32", "optim.lr=0.1"])
    assert sweep("finish", arms, "seed=1,2,3", "sweep.resume=latest") == 0
    assert [state for _, state, _ in jobs()] == ["FINISHED"] * 9
    assert starts() == 9
    values = manifest()
    assert set(values["axes"]) == {"stm", "stm.threshold", "seed", "lora", "optim.lr"}
    assert values["axes"]["lora"] == ["r32"]
    assert sweep("finish", arms, "sweep.resume=latest") == 0  # as the sweep itself says how to resume it
    assert sweep("finish", "sweep.resume=latest") == 0
    assert starts() == 9
    assert manifest() == values


def test_an_arm_that_left_the_file_is_not_run_and_may_come_back(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = write_arms(one=["stm=none"], two=["stm.threshold=4"], three=["stm.threshold=2"])
    assert sweep("fail_first_time", arms, "sweep.controls=[]") == 1
    write_arms(two=["stm.threshold=4"], four=["stm.threshold=9"])
    assert sweep("finish", arms, "sweep.resume=latest") == 0
    assert "1 combinations are new, 1 unfinished jobs are no longer asked for" in capsys.readouterr().out
    assert states() == dict.fromkeys(["unmasked", "stm=4", "stm=9"], "FINISHED")  # what is finished is kept
    write_arms(two=["stm.threshold=4"], three=["stm.threshold=2"])
    assert sweep("fail_first_time", arms, "sweep.resume=latest") == 0  # in its old folder: it has been tried
    assert states() == dict.fromkeys(["unmasked", "stm=4", "stm=9", "stm=2"], "FINISHED")


def test_another_file_is_no_revision(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", write_arms(one=["stm=none"])) == 0
    assert sweep("finish", write_arms(other=["stm.threshold=3"]), "sweep.resume=latest") == 1
    assert (
        "other overrides than the sweep has; now missing: stm=none; not in the sweep: stm.threshold=3"
        in capsys.readouterr().err
    )
    Path("arms.yaml").unlink()
    assert sweep("finish", "hydra.sweeper.arms=arms.yaml", "sweep.resume=latest") == 1
    assert "hydra.sweeper.arms: must be a YAML file" in capsys.readouterr().err
    assert len(jobs()) == 1


def test_a_new_arm_that_cannot_run_leaves_the_sweep_as_it_was(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", write_arms(one=["stm=none"])) == 0
    before = manifest()
    assert sweep("finish", write_arms(one=["stm=none"], two=["stm.threshold=-1"]), "sweep.resume=latest") == 1
    assert "job 1 of 1 (stm.threshold=-1 tracking=none): stm.threshold" in capsys.readouterr().err
    assert manifest() == before


def test_a_new_job_that_is_a_control_already_is_not_run_again(sweep: Sweep) -> None:
    assert sweep("finish", "stm.threshold=1.5,4") == 0
    for _ in range(2):
        assert sweep("finish", write_arms(masked=[], plain=["stm=none"]), "sweep.resume=latest") == 0
        assert [job["state"] for job in manifest()["jobs"]] == ["FINISHED"] * 3 + ["SKIPPED"] * 2
    assert {job["same_as"] for job in manifest()["jobs"][3:]} == {manifest()["jobs"][2]["id"]}
    assert starts() == 3


def test_a_value_that_a_sweep_had_anyway_is_not_new(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("finish", "stm.threshold=1.5,4", "sweep.controls=[]") == 0
    assert sweep("finish", "seed=1,2", "sweep.resume=latest") == 0
    assert [job for job, _, _ in jobs()] == ["stm=1.5/seed=1", "stm=4/seed=1", "stm=1.5/seed=2", "stm=4/seed=2"]
    assert sweep("finish", "lora=r16,r32", "sweep.resume=latest") == 1  # an option may set more than one value
    assert "now missing: " in capsys.readouterr().err
    assert sweep("finish", "sweep.resume=latest") == 0
    assert starts() == 4


def test_names_of_new_jobs_differ_from_those_of_old_ones(sweep: Sweep) -> None:
    assert sweep("finish", write_arms(first=["optim.lr=0.1"]), "seed=1,2") == 0
    assert sweep("finish", write_arms(first=["optim.lr=0.1"], second=["optim.lr=0.2"]), "sweep.resume=latest") == 0
    names = [job["name"] for job in manifest()["jobs"]]
    assert len(set(names)) == 4
    assert names[2].endswith("(optim.lr=0.2 seed=1)")


def test_a_sweep_that_is_older_than_a_config_group_is_resumed(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("fail_first_time", "stm.threshold=1.5,4") == 1
    base = manifest()["base"]
    for group in ("weight", "regulariser"):
        del base[group]
    change_manifest(base=base)
    assert sweep("finish", "seed=1,2", "sweep.resume=latest") == 0
    assert [state for _, state, _ in jobs()] == ["FINISHED"] * 6
    assert manifest()["base"].keys() == base.keys()
    assert sweep("finish", write_arms(weighted=["weight=dft"], plain=[]), "sweep.resume=latest") == 0
    assert "weight" in manifest()["axes"]
    assert sweep("finish", "sweep.resume=latest") == 0
    change_manifest(base={**base, "loss": {"normalise": "response"}})
    assert sweep("finish", "sweep.resume=latest") == 1
    assert "loss.normalise: response -> " in capsys.readouterr().err


def old(config: RunConfig) -> tuple[dict[str, Any], str]:
    """Base and id of a job before the program had `model.adapter`, `weight` and a key of each evaluation set."""
    base, values = to_plain(config), identity(config)
    del base["weight"], base["regulariser"]
    for part in (base, values):
        part["model"] = {key: value for key, value in part["model"].items() if key != "adapter"}
        for name, dataset in part["eval"]["datasets"].items():
            part["eval"]["datasets"][name] = {key: value for key, value in dataset.items() if key != "lab_style"}
    return base, digest(values)


def test_a_job_keeps_the_id_that_it_had_before_the_program_gained_a_key() -> None:
    config = RunConfig(stm=StmConfig(threshold=3))
    config.eval.datasets["mine"] = copy.deepcopy(config.dataset)
    base, earlier = old(config)
    assert identify(config, base)[0] == earlier != identify(config)[0]
    assert identify(config, to_plain(config))[0] == identify(config)[0]
    config.eval.datasets["another"] = copy.deepcopy(config.dataset)  # a name of the user's, not a new key
    assert identify(config, base)[0] not in (earlier, identify(config)[0])


def test_a_job_that_uses_a_new_key_has_the_id_of_today() -> None:
    base, _ = old(RunConfig())
    config = RunConfig(weight=WeightConfig(rule="dft"))
    assert identify(config, base)[0] == identify(config)[0]


def test_scorers_tell_jobs_apart_where_a_weight_reads_them() -> None:
    one, two = (
        RunConfig(stm=StmConfig(rule="none", scorer=name), weight=WeightConfig(rule="flow")) for name in ("a", "b")
    )
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(RunConfig(stm=one.stm)) == fingerprint(RunConfig(stm=two.stm))
