from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tokensieve.cli import compose
from tokensieve.config import RunConfig, from_yaml, identity, to_yaml
from tokensieve.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# What an option cannot know by itself.
NEEDED = {
    "model=path": ["model.path=/models/x"],
    "dataset=messages": ["dataset.path=chat.jsonl"],
    "dataset=pretokenised": ["dataset.path=scores.parquet"],
    **{f"dataset={name}": ["dataset.path=data"] for name in ("local", "fpb", "bird", "spider", "5g_mobile", "bgp")},
    "variant=larger_model": ["variant.base_url=http://localhost:8000/v1", "variant.endpoint_model=big"],
    "noise=from_file": ["noise.path=noisy.csv"],
    "stm=imported": ["stm.scores_path=scores.parquet"],
    "stm=dpf": ["stm.tuned_adapter=adapter"],
    "stm=stm_dpf": ["stm.tuned_adapter=adapter"],
    "weight=rho": ["weight.reference=adapter"],
}
GROUPS = (
    "model", "dataset", "variant", "noise", "stm", "weight", "regulariser", "lora", "optim", "trainer", "eval",
    "tracking", "recipe", "search", "launcher",
)  # fmt: skip
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_no_option_relies_on_missing_values() -> None:
    """OmegaConf lets `???` in an option lose against the schema's default: the default would be used silently."""
    assert not [file for file in CONF.rglob("*.yaml") if "???" in file.read_text()]


def test_no_option_is_forgotten() -> None:
    counts = {group: len(list((CONF / group).glob("*.yaml"))) for group in GROUPS}
    assert counts == {
        "model": 15,
        "dataset": 30,
        "variant": 10,
        "noise": 10,
        "stm": 8,
        "weight": 9,
        "regulariser": 4,
        "lora": 7,
        "optim": 4,
        "trainer": 5,
        "eval": 6,
        "tracking": 3,
        "recipe": 4,
        "search": 5,
        "launcher": 3,
    }


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str) -> None:
    run = compose([option, *NEEDED.get(option, [])])
    assert isinstance(run, RunConfig)
    assert from_yaml(to_yaml(run)) == run


def test_every_experiment_composes() -> None:
    for file in sorted((CONF / "experiment").rglob("*.yaml")):
        assert compose([f"experiment={file.relative_to(CONF / 'experiment').with_suffix('')}"])


def test_lab_sets_its_scale_and_other_models_keep_the_papers() -> None:
    assert compose([]).optim.lr == pytest.approx(4e-3)
    assert compose(["model=llama3_8b_instruct"]).optim.lr == pytest.approx(2e-5)
    assert compose(["optim.lr=0.5"]).optim.lr == 0.5
    assert compose(["optim=adafactor"]).optim.name == "adafactor"


def test_the_name_of_a_run_tells_its_rank() -> None:
    assert compose([]).run_name.split("/")[4] == "r16"
    assert compose(["lora=r32", "lora.rank=8"]).run_name.split("/")[4] == "r8"


def test_hub_models_pin_a_commit() -> None:
    for option in OPTIONS:
        group, name = option.split("=")
        if group == "model" and name not in ("lab", "path"):
            revision = compose([option]).model.revision
            assert revision is not None
            assert len(revision) == 40


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stm.threshold=-1"], r"stm\.threshold: must be a finite perplexity above 0; received -1"),
        (["stm.threshold=0"], r"stm\.threshold"),
        (["stm.quantile=0"], r"stm\.quantile: must be in \(0, 1\]"),
        (["stm.quantile=1.01"], r"stm\.quantile"),
        (["stm=dpf"], r"stm\.tuned_adapter.*fine-tuned adapter"),
        (["lora=none", "lora.quantise=nf4"], r"lora\.quantise"),
        (["lora.dropout=1"], r"lora\.dropout"),
        (["optim.lr=0"], r"optim\.lr"),
        (["trainer.batch_size=0"], r"trainer\.batch_size"),
        (["trainer.batch_tokens=0"], r"trainer\.batch_tokens: must be at least 1 token; received 0"),
        (["dataset.num_train=0"], r"dataset\.num_train"),
        (["sweep.controls=[unmaskd]"], r"sweep\.controls"),
        (["stm.treshold=2"], r"treshold"),
        (["stm=niave"], r"niave"),
        (["stm.threshold=high"], r"high"),
        (["dataset=messages"], r"dataset: needs a source: dataset\.path"),
        (["model=path"], r"model\.path: must name a folder"),
        (["stm=imported"], r"stm\.scores_path: must name the file"),
        (["weight=rho"], r"weight\.reference: rho compares with a reference scorer"),
        (["weight=power", "weight.alpha=-1"], r"weight\.alpha"),
        (["weight=eaft", "weight.top_k=1"], r"weight\.top_k"),
        (["weight=profit", "weight.threshold=2.5"], r"weight\.threshold.*a perplexity x is the probability 1/x"),
        (["weight=profit", "weight.mode=middle", "weight.threshold=0.95"], r"weight\.threshold_high: must be above"),
        (["weight=quantile_online", "weight.fraction=0"], r"weight\.fraction"),
        (["lora=none", "model.dtype=bfloat16", "trainer.precision=bf16-mixed"], r"trainer\.precision: mixed precision"),
        (["eval.bootstrap_samples=500"], r"eval\.bootstrap_samples: is 10000"),
        (["dataset=pretokenised", "dataset.val_fraction=0.1"], r"dataset\.tokens_field: goes with neither"),
        (["weight=dft", "regulariser=asft"], r"regulariser: asft brings its own token weights"),
        (["regulariser=asft", "regulariser.coefficient=-1"], r"regulariser\.coefficient"),
        (["regulariser=kl", "lora=none", "trainer=fsdp"], r"regulariser: kl of full fine-tuning.*trainer=ddp"),
        (["regulariser=l2_sp", "lora=dora"], r"regulariser: l2_sp measures LoRA's update"),
    ],
)
def test_wrong_input_names_the_key(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(overrides)


def test_identity_leaves_out_how_a_run_is_executed() -> None:
    one, other = compose(["tracking=none", "sweep.workers=2", "output_dir=/x", "debug=true"]), compose([])
    assert identity(one) == identity(other)
    assert identity(compose(["seed=2"])) != identity(other)


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["stm.treshold=2"], ["dry_run=true"]])
def test_answers_without_the_heavy_libraries(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import runpy, sys; sys.argv = ['train.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'mlflow', 'lightning', 'peft', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    extra: list[Any] = [f"output_dir={tmp_path}"] if arguments == ["dry_run=true"] else []
    done = subprocess.run([sys.executable, "-c", script, *arguments, *extra], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_two_devices_share_a_step_of_the_packaged_model() -> None:
    for name in ("ddp", "fsdp"):
        assert compose([f"trainer={name}", "trainer.devices=2"]).trainer.micro_batch_size == 2
    assert compose([]).trainer.micro_batch_size == 8


def test_a_run_needs_nobody_to_listen(tmp_path: Path) -> None:
    """With both streams closed, as some daemons start their children, and so with None for sys.stdout."""
    command = [sys.executable, "train.py", "dry_run=true", f"output_dir={tmp_path}"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], cwd=ROOT)
    assert done.returncode == 0
