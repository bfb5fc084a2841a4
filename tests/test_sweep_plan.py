"""What a sweep consists of before anything starts: jobs, controls, duplicates, faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from sweep_program import CONF

from tokensieve.config import RunConfig, register_schema
from tokensieve.errors import ConfigError, DataError
from tokensieve.sweep import compose as compose_module
from tokensieve.sweep.compose import Compose, composer, read_config
from tokensieve.sweep.plan import PlannedJob, base_values, plan_jobs
from tokensieve.sweep.planner import name_sweep

Plan = Callable[..., list[PlannedJob]]


@pytest.fixture
def compose() -> Iterator[Compose]:
    register_schema()

    with initialize_config_dir(str(CONF)):
        loader = GlobalHydra.instance().config_loader()
        yield composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.fixture
def plan(compose: Compose) -> Plan:
    def plan_all(batch: Sequence[Sequence[str]], *swept: str, with_controls: bool = True) -> list[PlannedJob]:
        return plan_jobs(batch, compose, lambda config: None, swept=swept, with_controls=with_controls)

    return plan_all


def arms(jobs: Sequence[PlannedJob]) -> list[tuple[str, int, str | None]]:
    return [(job.config.arm, job.config.seed, job.control) for job in jobs if job.same_as is None]


def test_thresholds_gain_one_unmasked_control(plan: Plan) -> None:
    jobs = plan([["stm.threshold=1.5"], ["stm.threshold=4"]], "stm.threshold")
    assert arms(jobs) == [("stm=1.5", 1, None), ("stm=4", 1, None), ("unmasked", 1, "unmasked")]
    assert len({job.job_id for job in jobs}) == 3


def test_controls_inherit_the_other_axes(plan: Plan) -> None:
    batch = [[f"stm.threshold={tau}", f"seed={seed}"] for tau in (1.5, 4) for seed in (1, 2, 3)]
    controls = [arm for arm in arms(plan(batch, "stm.threshold", "seed")) if arm[2]]
    assert controls == [("unmasked", 1, "unmasked"), ("unmasked", 2, "unmasked"), ("unmasked", 3, "unmasked")]


def test_matched_controls_at_each_threshold(plan: Plan) -> None:
    batch = [[f"stm.threshold={tau}", "sweep.controls=[random,low]"] for tau in (1.5, 4)]
    controls = {arm[0] for arm in arms(plan(batch, "stm.threshold")) if arm[2]}
    assert controls == {"random=1.5", "low=1.5", "random=4", "low=4"}


@pytest.mark.parametrize("batch", [[["stm.threshold=2.5"]], [["stm.threshold=2.5", f"seed={n}"] for n in (1, 2)]])
def test_controls_that_were_asked_for_need_no_swept_rule(plan: Plan, batch: list[list[str]]) -> None:
    asked = [[*overrides, "sweep.controls=[unmasked,random,low]"] for overrides in batch]
    found = [arm for arm in arms(plan(asked, *(["seed"] if len(batch) > 1 else []))) if arm[2]]
    assert {arm[0] for arm in found} == {"unmasked", "random=2.5", "low=2.5"}
    assert len(found) == 3 * len(batch)


def test_a_control_that_the_sweep_holds_is_not_added(plan: Plan) -> None:
    jobs = plan([["stm=none"], ["stm=naive"]], "stm")
    assert arms(jobs) == [("unmasked", 1, None), ("stm=2.5", 1, None)]


@pytest.mark.parametrize(
    ("batch", "swept"),
    [
        ([["optim.lr=1e-3"], ["optim.lr=1e-4"]], ["optim.lr"]),
        ([["stm.threshold=1.5"]], []),
        ([["stm.threshold=1.5", "sweep.controls=[]"], ["stm.threshold=4", "sweep.controls=[]"]], ["stm.threshold"]),
    ],
    ids=["no token rule is swept", "nothing is swept", "none are wanted"],
)
def test_no_controls(plan: Plan, batch: list[list[str]], swept: list[str]) -> None:
    assert all(job.control is None for job in plan(batch, *swept))


def test_a_search_gains_no_controls(plan: Plan) -> None:
    assert len(plan([["stm.threshold=1.5"]], "stm.threshold", with_controls=False)) == 1


def test_equal_jobs_run_once(plan: Plan) -> None:
    jobs = plan([["stm.threshold=2.5"], ["stm.threshold=2.50"], ["stm.threshold=4"]], "stm.threshold")
    assert [job.same_as for job in jobs] == [None, jobs[0].job_id, None, None]


def test_a_threshold_that_no_rule_reads_makes_no_new_job(plan: Plan) -> None:
    jobs = plan([["stm=none", "stm.threshold=1"], ["stm=none", "stm.threshold=2"]], "stm.threshold")
    assert jobs[1].same_as == jobs[0].job_id != jobs[1].job_id
    assert len(jobs) == 2


def test_names_that_clash_tell_what_varies(plan: Plan) -> None:
    names = [job.name for job in plan([["optim.lr=1e-3"], ["optim.lr=1e-4"]], "optim.lr")]
    assert names[0].endswith("(optim.lr=1e-3)")
    assert len(set(names)) == 2


def test_every_fault_is_reported_and_equal_ones_once(compose: Compose) -> None:
    def validate(config: RunConfig) -> None:
        if config.seed == 7:
            raise DataError("rows.jsonl:3", "must be JSON")

    batch = [["stm.threshold=-1"], ["stm.rule=foo"], ["seed=7"], ["seed=7", "optim.lr=1"], ["seed=1"], ["sed=1"]]
    with pytest.raises(ExceptionGroup) as caught:
        plan_jobs(batch, compose, validate, swept=(), with_controls=True)
    told = [(*fault.__notes__, str(fault).partition(":")[0]) for fault in caught.value.exceptions]
    assert told == [
        ("job 1 of 6 (stm.threshold=-1)", "stm.threshold"),
        ("job 2 of 6 (stm.rule=foo)", "stm.rule"),
        ("job 3 of 6 (seed=7) and 1 more", "rows.jsonl"),
        ("job 6 of 6 (sed=1)", "sed"),
    ]


def test_a_defect_is_not_taken_for_a_fault_of_the_user(compose: Compose) -> None:
    def validate(config: RunConfig) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plan_jobs([["seed=1"]], compose, validate, swept=(), with_controls=True)


def test_base_holds_what_jobs_share(compose: Compose) -> None:
    base = base_values([["stm.threshold=9", "optim.lr=1e-4", "sweep.workers=2"]], compose, ["stm.threshold"])
    assert (base["stm"]["threshold"], base["optim"]["lr"]) == (2.5, 1e-4)
    assert "sweep" not in base


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["stm.threshold=4", "seed=2"],
        ["seed=2", "stm=none", "seed=3"],
        ["model.name='a, b'", "eval.tasks=[lab_math]", "model.max_length=null", "trainer.patience=3"],
        ["+dataset.reference.x=1", "dataset.reference.x=2"],
        ["dataset.path=${oc.env:HOME}", "noise=none", "hydra.verbose=true"],
    ],
)
def test_the_short_way_composes_what_hydra_composes(compose: Compose, overrides: list[str]) -> None:
    for _ in range(2):  # the second one finds its groups composed already
        assert compose(overrides) == hydra_compose("config", overrides=overrides)
    compose(["seed=9", *overrides])  # a copy: what another job sets is not seen
    assert compose(overrides) == hydra_compose("config", overrides=overrides)


@pytest.mark.parametrize(
    ("override", "key"), [("+foo=1", "foo"), ("+stm.foo=1", "stm.foo"), ("stm.threshold=???", "stm.threshold")]
)
def test_added_and_missing_keys_are_refused(compose: Compose, override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        read_config(compose([override]))


def test_a_job_read_by_parts_equals_the_whole_config(compose: Compose) -> None:
    jobs = [
        ["stm.threshold=1.5", "seed=1"],
        ["stm.threshold=4", "seed=2"],  # by parts from here on
        ["stm.threshold=4.0", "seed=3"],
        ["lora=r32", "optim.lr=1e-3", "eval.tasks=[]"],
        ["lora=r32", "optim.lr=2e-3", "eval.tasks=[lab_sql]"],
        ["dataset=local", "dataset.path=a.jsonl"],
        ["dataset=local", "dataset.path='b, c.jsonl'"],
        ["output_dir=x", "debug=true", "eval.datasets={}"],
        ["output_dir=y", "debug=false", "eval.datasets={}"],
    ]
    for job in jobs:
        assert compose.read(job) == read_config(compose(job))


def test_jobs_read_by_parts_share_nothing_that_can_change(compose: Compose) -> None:
    runs = [compose.read([f"stm.threshold={tau}"]) for tau in (1.5, 2.5, 4)]
    assert len({id(run.eval) for run in runs}) == 3
    runs[0].dataset.limit = 7
    runs[1].stm.threshold = 9
    assert compose.read(["stm.threshold=2.5"]).dataset.limit is None
    assert compose.read(["stm.threshold=2.5"]).stm.threshold == 2.5


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["stm.threshold=2"], ["stm.threshold=-1"], "stm.threshold"),
        (
            ["variant=self_output", "seed=1", "noise.ratio=0"],
            ["variant=self_output", "seed=1", "noise.ratio=0.3"],
            "noise",
        ),
        (["dataset=local", "dataset.path=a"], ["dataset=local"], "dataset.path"),
        (["trainer.epochs=1"], ["trainer.epochs=x"], "trainer.epochs"),
    ],
)
def test_faults_are_found_by_parts_too(compose: Compose, first: list[str], second: list[str], message: str) -> None:
    compose.read(first)
    with pytest.raises(Exception, match=message) as by_parts:
        compose.read(second)
    with pytest.raises(Exception, match=message) as whole:
        read_config(compose(second))
    assert str(by_parts.value) == str(whole.value)


def test_a_value_that_follows_from_another_is_read_with_it(compose: Compose) -> None:
    for seed in (1, 2, 3):
        assert compose.read([f"seed={seed}", "eval.seed=${seed}"]).eval.seed == seed


def test_a_thousand_jobs_are_composed_by_hydra_a_bounded_number_of_times(
    plan: Plan, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hydra, whole = [], []
    compose_by_hydra = compose._compose_by_hydra
    monkeypatch.setattr(compose, "_compose_by_hydra", lambda job: (by_hydra.append(job), compose_by_hydra(job))[1])
    read_whole = compose_module.read_config
    monkeypatch.setattr(compose_module, "read_config", lambda composed: (whole.append(1), read_whole(composed))[1])
    batch = [
        [f"lora={lora}", f"stm.threshold={1 + tau / 100}", f"seed={seed}"]
        for lora in ("r16", "r32")
        for tau in range(50)
        for seed in range(10)
    ]
    jobs = plan([*batch, batch[0]], "lora", "stm.threshold", "seed")
    assert len(jobs) == 1000 + 1 + 2 * 10
    assert sum(job.same_as is not None for job in jobs) == 1
    assert len(by_hydra) == 2  # the choices of lora
    assert len(whole) == 4  # for jobs and for controls, which set other keys


def test_the_base_may_refer_to_what_is_no_part_of_it(compose: Compose) -> None:
    values = base_values([["model.adapter=${output_dir}/runs/${seed}", "output_dir=out", "seed=3"]], compose, ["seed"])
    assert values["model"]["adapter"] == "out/runs/1"
    assert "output_dir" not in values


@pytest.mark.parametrize(
    ("arms", "is_search", "expected"),
    [
        (None, False, "lab/lab_code optim.lr=1,2 seed=3,4"),
        ("experiments/science/design.yaml", False, "lab/lab_code arms of science/design.yaml seed=3,4"),
        (None, True, "lab/lab_code search over optim.lr, seed"),
    ],
)
def test_a_sweep_is_named_by_what_it_varies(arms: str | None, is_search: bool, expected: str) -> None:
    master = OmegaConf.create({"hydra": {"sweeper": {"arms": arms}, "overrides": {"task": ["seed=3,4"]}}})
    axes = {"optim.lr": ["1", "2"], "seed": ["3", "4"]}
    assert name_sweep(RunConfig(), axes, master, is_search=is_search) == expected
