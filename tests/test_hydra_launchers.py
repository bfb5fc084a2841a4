"""Hydra's launchers by their own names and keys: the sweep that `launcher=slurm` or `launcher=ray` runs, or one line."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sweeping
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from sweeping import Sweep, manifest, starts, sweep_here

from hydra_plugins import tokensieve_launcher
from hydra_plugins.tokensieve_launcher import TokensieveLauncher
from tokensieve.cli import compose
from tokensieve.errors import ConfigError
from tokensieve.sweep.hydra_launchers import translate_launcher

SLURM, LOCAL = "submitit_slurm", "submitit_local"


@pytest.fixture(autouse=True)
def _plugins() -> None:
    """What hydra-submitit-launcher registers, and hydra-ray-launcher, which asks for an older cloudpickle than ours."""
    import hydra_plugins.hydra_submitit_launcher.config

    import hydra_plugins.tokensieve_launcher  # noqa: F401  # they register themselves

    ray = {"_target_": "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"}
    ray |= {"ray": {"init": {"address": None}, "remote": {}}}  # type: ignore[dict-item]
    ConfigStore.instance().store(group="hydra/launcher", name="ray", node=ray, replace=True)


def composed(name: str, **given: Any) -> Any:
    """Hydra's part of a config in which `given` was set under `hydra.launcher`."""
    node = OmegaConf.create(ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node)
    OmegaConf.set_struct(node, False)
    parts = {"runtime": {"choices": {"hydra/launcher": name}}, "overrides": {"hydra": []}}
    return OmegaConf.create({"where": "gpu", "hydra": {"launcher": OmegaConf.merge(node, given), **parts}})


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        (SLURM, {}, {"cluster": "slurm", "timeout_minutes": 1440, "requeues": 10}),
        (
            SLURM,
            {"timeout_min": 90, "partition": "${where}", "gpus_per_node": 2, "mem_gb": 40, "max_num_timeout": 3},
            {"timeout_minutes": 90, "partition": "gpu", "gpus": 2, "memory_gb": 40, "requeues": 3},
        ),
        (
            SLURM,
            {
                "gres": "gpu:a100:1",
                "cpus_per_gpu": 4,
                "additional_parameters": {"mail-type": "END, FAIL", "exclusive": True},
            },
            {"options": {"gres": "gpu:a100:1", "cpus-per-gpu": "4", "mail-type": "END, FAIL", "exclusive": "true"}},
        ),
        (
            SLURM,
            {
                "setup": ["module load cuda", 'echo "a, b"', "A=b\\t\ntrue"],
                "array_parallelism": 8,
                "signal_delay_s": 300,
            },
            {"setup": ["module load cuda", 'echo "a, b"', "A=b\\t\ntrue"], "parallel": 8, "signal_seconds": 300},
        ),
        (LOCAL, {"cpus_per_task": 2}, {"name": "slurm", "cluster": "local", "cpus": 2}),
        ("ray", {"ray": {"init": {"address": "auto"}}}, {"name": "ray", "address": "auto", "gpus": None}),
        ("ray", {"ray": {"remote": {"num_cpus": 3, "num_gpus": None, "memory": 2**31}}}, {"cpus": 3, "memory_gb": 2.0}),
    ],
)
def test_what_they_are_told_is_told_to_ours(name: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = compose(translate_launcher(composed(name, **given), name)).launcher
    assert {key: getattr(found, key) for key in expected} == expected


def test_a_default_that_is_named_counts() -> None:
    config = composed(SLURM)
    config.hydra.overrides.hydra = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60"]
    assert translate_launcher(config, SLURM) == ['launcher="slurm"', "launcher.timeout_minutes=60"]


def test_nodes_and_shares_of_a_gpu_are_other_groups_matters() -> None:
    nodes = compose([*translate_launcher(composed(SLURM, nodes=2), SLURM), "trainer.micro_batch_size=4"])
    assert nodes.trainer.num_nodes == 2
    for share, jobs in ((0.25, 4), (0.6, 1), (0.35, 2), (0.2, 4)):
        shared = compose(translate_launcher(composed("ray", ray={"remote": {"num_gpus": share}}), "ray"))
        assert (shared.launcher.gpus, shared.sweep.jobs_per_device) == (1, jobs)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("basic", {}, r"hydra/launcher: must be one of tokensieve, submitit_slurm, .*received 'basic'.*sweep\.workers"),
        (SLURM, {"tasks_per_node": 8}, r"hydra\.launcher\.tasks_per_node: has no counterpart.*trainer\.devices.*qos"),
        (LOCAL, {"stderr_to_stdout": True}, r"hydra\.launcher\.stderr_to_stdout: has no counterpart"),
        ("ray", {"ray": {"init": {"num_cpus": 4}}}, r"hydra\.launcher\.ray\.init\.num_cpus: has no counterpart"),
        ("ray", {"ray": {"remote": {"runtime_env": {}}}}, r"hydra\.launcher\.ray\.remote\.runtime_env: has no"),
    ],
)
def test_what_has_no_counterpart_is_refused(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        translate_launcher(composed(name, **given), name)
    assert re.search(said, str(caught.value))


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    """Of quick jobs, whichever launcher is asked for."""
    quick = partial(TokensieveLauncher, job="fake_jobs:finish", preload=["tokensieve.sweep.job"])
    monkeypatch.setattr(tokensieve_launcher, "TokensieveLauncher", quick)
    monkeypatch.setattr(sweeping, "arguments", lambda _, *overrides, module: ["-m", *overrides, "tracking=none"])
    return sweep_here(monkeypatch, tmp_path)


def test_a_sweep_by_the_plugin_s_name_is_an_ordinary_sweep(sweep: Sweep, tmp_path: Path) -> None:
    (tmp_path / "mine/experiment").mkdir(parents=True)
    of_cluster = "# @package _global_\nhydra: {launcher: {cpus_per_task: 1}}\n"
    (tmp_path / "mine/experiment/cluster.yaml").write_text(of_cluster)
    told = [f"--config-dir={tmp_path}/mine", "hydra/launcher=submitit_local", "experiment=cluster", "search=none"]
    assert sweep("", *told, "stm.threshold=1,2,1") == 0
    jobs = manifest()["jobs"]
    assert sorted(job["state"] for job in jobs) == ["FINISHED", "FINISHED", "FINISHED", "SKIPPED"]
    assert all('launcher.cluster="local"' in job["overrides"] for job in jobs)  # of the control, too
    assert len(list(tmp_path.rglob("*_submitted.pkl"))) == starts() == 3
    assert sweep("", *told, "sweep.resume=latest", "stm.threshold=1,2,3") == 0
    assert starts() == 4


@pytest.mark.parametrize("search", ["none", "random"])
def test_a_launcher_of_no_sweep_starts_nothing(
    sweep: Sweep, search: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("", "hydra/launcher=basic", f"search={search}", "stm.threshold=1,2") == 1
    assert capsys.readouterr().err.startswith("error: hydra/launcher: must be one of tokensieve")
    assert not list(tmp_path.iterdir())
