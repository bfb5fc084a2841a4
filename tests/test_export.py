from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import MARKED_TEMPLATE, save_tiny, tiny_model
from trained_run import make_adapter, make_run
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tokensieve.adapter import load_adapter
from tokensieve.cli import main
from tokensieve.config import LoraConfig, ModelConfig, RunConfig, to_yaml
from tokensieve.errors import AlignmentError, CacheError, ConfigError
from tokensieve.export import export_model, open_repository
from tokensieve.export.folder import staged_folder
from tokensieve.export.verification import Agreement, compare_logits
from tokensieve.trained_model import choose_model

IDS = torch.tensor([[5, 30, 40, 50, 60, 70]])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", tiny_folder)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def adapted_logits(base: Path, adapter: Path) -> torch.Tensor:
    return logits(load_adapter(AutoModelForCausalLM.from_pretrained(base), adapter))


def error_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_the_exported_checkpoint_says_what_base_and_adapter_say(
    kind: dict[str, bool], tmp_path: Path, tiny_folder: Path
) -> None:
    run = make_run(tmp_path / "run", tiny_folder, **kind)
    export = export_model(choose_model(run), tmp_path / "out")
    expected = adapted_logits(tiny_folder, run / "adapter")
    base = logits(AutoModelForCausalLM.from_pretrained(tiny_folder))
    written = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert (written - expected).abs().max() < 1e-4 < 0.1 < (written - base).abs().max()
    assert export.merge is not None
    assert export.effect is not None
    assert export.merge.relative < 1e-4 < export.effect.relative
    assert export.merge.same_top == export.merge.num_positions > 50
    assert export.quantisation is None


def test_a_checkpoint_has_all_that_a_reader_needs(tmp_path: Path, run: Path, tiny_folder: Path) -> None:
    export_model(choose_model(run), tmp_path / "deep" / "out")
    out = tmp_path / "deep" / "out"
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]
    assert list(out.glob("*.safetensors"))
    assert AutoTokenizer.from_pretrained(out).chat_template == MARKED_TEMPLATE
    assert GenerationConfig.from_pretrained(out).eos_token_id == 1
    assert json.loads((out / "config.json").read_text())["use_cache"] is True
    assert {entry.stat().st_mode & 0o777 for entry in out.iterdir()} == {out.stat().st_mode & 0o666}
    record = json.loads((out / "tokensieve_export.json").read_text())
    assert record["base"] == str(tiny_folder)
    assert record["dtype"] == "float32"
    assert set(record["trained_files"]) == {"adapter_config.json", "adapter_model.safetensors"}


def test_an_adapter_by_hand_finds_its_own_base(tmp_path: Path, tiny_folder: Path) -> None:
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    arguments = ["export", "--adapter", str(adapter), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]
    assert main(arguments) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16


def test_another_base_of_the_same_shapes_is_told(
    tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = save_tiny(tmp_path / "other", seed=5)
    adapter = make_adapter(tiny_folder, tmp_path / "adapter")
    choose_model(adapter=adapter, model=str(tiny_folder))
    assert not caplog.records
    choose_model(adapter=adapter, model=str(other))
    assert f"was trained on {tiny_folder}" in caplog.text


def test_another_base_of_other_shapes_is_refused(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = save_tiny(tmp_path / "other", hidden_size=48)
    line = error_line(["export", str(run), "--model", str(other), "--output", str(tmp_path / "out")], capsys)
    assert "trained on this base" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["other"]


def test_a_full_fine_tune_is_copied(tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    tuned = tiny_model(seed=9)
    tuned.config.use_cache = False
    tuned.save_pretrained(run / "adapter")
    config = RunConfig(model=ModelConfig(path=str(tiny_folder)), lora=LoraConfig(method="none"))
    (run / "config.yaml").write_text(to_yaml(config))
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 0
    assert "copies" in capsys.readouterr().out
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), logits(tuned))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == MARKED_TEMPLATE
    assert json.loads((tmp_path / "out" / "config.json").read_text())["use_cache"] is True
    assert "--dtype" in error_line(
        ["export", str(run), "--output", str(tmp_path / "out2"), "--dtype", "float16"], capsys
    )


def test_a_4_bit_base_is_merged_in_its_full_weights_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny(tmp_path / "base", hidden_size=64, intermediate_size=128)
    run = make_run(tmp_path / "run", base, lora=LoraConfig(quantise="nf4"))
    assert main(["export", str(run), "--output", str(tmp_path / "out")]) == 0
    assert "trained on a 4-bit base, merged into the base's float32 weights" in capsys.readouterr().out
    written = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert (written - adapted_logits(base, run / "adapter")).abs().max() < 1e-3
    record = json.loads((tmp_path / "out" / "tokensieve_export.json").read_text())
    assert record["quantisation"]["absolute"] > 100 * record["merge"]["absolute"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, at attaching, saving and merging
def test_a_merge_that_changes_the_model_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    # The output layer shares its weights with the embedding, so that its merged update would enter both.
    base = save_tiny(tmp_path / "base", tie_word_embeddings=True)
    run = make_run(tmp_path / "run", base, target_modules="q_proj,lm_head", scale=1.0)
    with pytest.raises(AlignmentError, match="tied"):
        export_model(choose_model(run), tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["base", "run"]


def test_a_logit_that_is_no_number_is_never_close() -> None:
    good, bad = torch.ones(2, 3), torch.full((2, 3), torch.nan)
    for one, other in ((good, bad), (bad, good), (bad, bad), (good, good * torch.inf)):
        assert compare_logits([one], [other]).absolute == compare_logits([one], [other]).relative == math.inf
    assert compare_logits([good], [good]) == Agreement(0.0, 0.0, 2, 2)


def test_agreement_by_hand() -> None:
    one, other = torch.tensor([[3.0, 1.0, -1.0, -3.0]]), torch.tensor([[3.0, 3.0, -1.0, -1.0]])
    found = compare_logits([one, one], [other, one])
    assert found.absolute == 2
    # differences 0 2 0 2, without their mean: 4 squares of 1, and none in the second; logits: twice 9 + 1 + 1 + 9
    assert found.relative == pytest.approx(math.sqrt(4 / 40))
    assert found.same_top == found.num_positions == 2
    assert compare_logits([one], [one + 5]).relative == 0  # no probability changes


def test_a_weak_adapter_in_16_bits_is_told(tmp_path: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(tmp_path / "run", tiny_folder, scale=1e-5)
    export_model(choose_model(run), tmp_path / "out", dtype="bfloat16")
    assert "round away" in caplog.text


def test_a_folder_with_content_is_kept_unless_forced(
    tmp_path: Path, run: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    export = ["export", str(run), "--output", str(out)]
    assert "--force" in error_line(export, capsys)
    assert "replaces only" in error_line([*export, "--force"], capsys)  # no model lies there
    assert (out / "notes.txt").read_text() == "mine"
    (out / "config.json").write_text("{}")
    assert main([*export, "--force"]) == 0
    assert not (out / "notes.txt").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    base = ["export", str(run), "--force", "--output", str(tiny_folder)]
    assert "in use" in error_line(base, capsys)
    assert (tiny_folder / "model.safetensors").is_file()
    file = tmp_path / "file"
    file.touch()
    assert "must be a folder" in error_line(["export", str(run), "--output", str(file)], capsys)


def test_a_full_disk_leaves_nothing(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # the weights are larger
    try:
        line = error_line(["export", str(run), "--output", str(tmp_path / "out")], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "nothing was left" in line
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_told_before_writing(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert "free disk" in error_line(["export", str(run), "--output", str(tmp_path / "out")], capsys)
    assert list(tmp_path.iterdir()) == []


def test_cancelled_after_writing_it_leaves_nothing_and_the_old_model_stays(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokensieve.export import merging

    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    compute, calls = merging.compute_logits, []

    def cancelled(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:  # base, unmerged, written
            assert list(tmp_path.glob(".out.partial-*/*.safetensors"))
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(*arguments, **options)

    monkeypatch.setattr(merging, "compute_logits", cancelled)
    assert main(["export", str(run), "--output", str(out), "--force"]) == 130
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (out / "config.json").read_text() == "old"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    import socket

    dead = tmp_path / f".out.partial-{socket.gethostname()}-999999999"
    living = tmp_path / f".out.partial-{socket.gethostname()}-1"
    elsewhere = tmp_path / ".out.partial-another-host-999999999"
    for folder in (dead, living, elsewhere):
        folder.mkdir()
    with staged_folder(tmp_path / "out") as aside:
        (aside / "file").touch()
    assert (tmp_path / "out" / "file").exists()
    assert not dead.exists()
    assert living.exists()
    assert elsewhere.exists()


@pytest.mark.parametrize("new_is_there", [True, False])
def test_a_model_that_a_killed_export_took_away_comes_back(new_is_there: bool, tmp_path: Path) -> None:
    import socket

    old, target = tmp_path / f".out.replaced-{socket.gethostname()}-999999999", tmp_path / "out"
    old.mkdir()
    (old / "old").touch()
    if new_is_there:  # killed while the old one was removed
        target.mkdir()
        (target / "new").touch()
    with pytest.raises(KeyboardInterrupt), staged_folder(target):
        raise KeyboardInterrupt
    assert not old.exists()
    assert [path.name for path in target.iterdir()] == ["new" if new_is_there else "old"]


def test_two_exports_to_one_place_do_not_mix(tmp_path: Path) -> None:
    def export_late() -> None:
        with staged_folder(tmp_path / "out") as aside:
            (aside / "ours").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").touch()

    with pytest.raises(CacheError, match="another process"):
        export_late()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["out", "theirs"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/run"], "run folder"),
        (["--adapter", "/no/such/adapter"], "adapter_config.json"),
        (["--model", "lab"], "something trained"),
        (["--model", "./nowhere"], "model.path"),
        (["{run}", "--adapter", "{run}/adapter"], "beside a run"),
        (["--adapter", "{run}"], "give it without --adapter"),
        (["{run}/.."], "run folder"),
        (["{run}", "--push", "no-owner"], "owner/name"),
        (["{run}", "--push", "me/my model"], "owner/name"),
        (["{run}", "--push", "me/model"], "HF_TOKEN"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    said: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    filled = [part.format(run=run) for part in arguments]
    assert said in error_line(["export", *filled, "--output", str(tmp_path / "out")], capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_is_told(tmp_path: Path, run: Path) -> None:
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(run / "config.yaml", half)
    with pytest.raises(ConfigError, match="finished run"):
        choose_model(half)


class FakeHub:
    """What of the hub's client is used, with the calls written down."""

    calls: list[tuple[str, dict[str, Any]]]
    is_private = True
    token: str

    def __init__(self, *, token: str, library_name: str) -> None:
        type(self).calls, type(self).token = [], token

    def whoami(self) -> dict[str, str]:
        return {"name": "me"}

    def create_repo(self, name: str, **options: Any) -> str:
        self.calls.append(("create", {"name": name, **options}))
        return f"https://hub/{name}"

    def repo_info(self, name: str) -> Any:
        return type("Info", (), {"private": self.is_private})()

    def upload_folder(self, **options: Any) -> None:
        assert (options["folder_path"] / "config.json").is_file()
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "is_private", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return FakeHub


def test_push_is_private_unless_asked_and_never_tells_the_token(
    tmp_path: Path, run: Path, hub: type[FakeHub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "--output", str(tmp_path / "out"), "--push", "me/model"]) == 0
    assert hub.token == "hf_secret"
    assert hub.calls[0] == ("create", {"name": "me/model", "private": True, "exist_ok": True})
    assert hub.calls[1][0] == "upload"
    assert hub.calls[1][1]["repo_id"] == "me/model"
    said = capsys.readouterr()
    assert "pushed: https://hub/me/model" in said.out
    assert "hf_secret" not in said.out + said.err
    assert "hf_secret" not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.json"))


def test_public_is_for_what_is_pushed(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--push" in error_line(["export", str(run), "--output", str(tmp_path / "out"), "--public"], capsys)
    assert not (tmp_path / "out").exists()


def test_push_into_a_public_repository_is_refused_unless_asked(
    tmp_path: Path, run: Path, hub: type[FakeHub], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "is_private", False)
    export = ["export", str(run), "--push", "me/model", "--output"]
    assert "--public" in error_line([*export, str(tmp_path / "one")], capsys)
    assert [name for name, _ in hub.calls] == ["create"]
    assert (tmp_path / "one" / "config.json").is_file()  # the export itself is done
    assert main([*export, str(tmp_path / "two"), "--public"]) == 0
    assert hub.calls[0][1]["private"] is False


def test_without_network_it_fails_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CacheError, match="must be reachable") as caught:
        open_repository("me/model")
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(("status", "said"), [(401, "token is not valid"), (403, "may not write"), (500, "broken")])
def test_a_refusal_of_the_hub_is_one_line(
    status: int, said: str, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx2
    from huggingface_hub import errors

    response = httpx2.Response(status, request=httpx2.Request("GET", "https://hub"))
    refusal = errors.HfHubHTTPError("the hub is broken\nhf_secret", response=response)

    def refuse(self: FakeHub) -> None:
        raise refusal

    monkeypatch.setattr(hub, "whoami", refuse)
    with pytest.raises(CacheError, match=said) as caught:
        open_repository("me/model")
    assert "hf_secret" not in str(caught.value)
