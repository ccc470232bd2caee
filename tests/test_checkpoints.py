"""Checkpoints: only a complete one of this very job is used, from the run's own folder, else the one before."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qalign_core.training import checkpoints


def parts(step: int, world_size: int) -> list[str]:
    """The files of a checkpoint of ZeRO 2, as Trainer and DeepSpeed name them."""
    shards = [f"global_step{step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(world_size)]
    random = [f"rng_state_{rank}.pth" for rank in range(world_size)] if world_size > 1 else ["rng_state.pth"]
    return ["trainer_state.json", "latest", f"global_step{step}/mp_rank_00_model_states.pt", *shards, *random]


def written(folder: Path, step: int, world_size: int = 1) -> Path:
    path = folder / f"checkpoint-{step}"
    for name in parts(step, world_size):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"x" * 100)
    (path / "latest").write_text(f"global_step{step}")
    return path


def checkpoint(folder: Path, step: int, fingerprint: str = "job", world_size: int = 1) -> Path:
    path = written(folder, step, world_size)
    checkpoints.seal(path, fingerprint, world_size, {"tokens": step})
    return path


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (20, 120, 100, 80, 60, 40):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-120" / "complete.json").write_text("{")
    (tmp_path / "checkpoint-100" / "complete.json").unlink()
    (tmp_path / "checkpoint-80" / "global_step80" / "mp_rank_00_model_states.pt").write_bytes(b"x" * 50)
    (tmp_path / "checkpoint-60" / "rng_state.pth").unlink()
    assert checkpoints.newest_step(tmp_path) == 40
    found, manifest = checkpoints.latest(tmp_path, "job", 1)
    assert found.name == "checkpoint-40"
    assert manifest["totals"] == {"tokens": 40}
    said = capsys.readouterr().out
    assert "checkpoint-120 is not used: " in said
    assert "complete.json: line 1: not JSON" in said
    assert "checkpoint-100 is not used: it was never finished" in said
    assert "checkpoint-80 is not used: global_step80/mp_rank_00_model_states.pt has 50 bytes instead of 100" in said
    assert "checkpoint-60 is not used: rng_state.pth is missing" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "checkpoint-40"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_checkpoint_without_every_part_is_never_declared_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    monkeypatch.setattr(checkpoints, "VISIBLE_SECONDS", 0.1)
    for number, name in enumerate(parts(20, world_size)):
        if world_size == 1 and "optim" in name:
            continue  # ZeRO 0 has no such file
        folder = written(tmp_path / str(number), 20, world_size)
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match="did not appear: every machine must write into the same run"):
            checkpoints.seal(folder, "job", world_size, {})
        assert checkpoints.damage(folder) == "it was never finished"


def test_the_manifest_waits_for_what_a_file_server_shows_late(tmp_path: Path) -> None:

    folder = written(tmp_path, 20, world_size=2)
    late = folder / "rng_state_1.pth"
    late.unlink()
    threading.Timer(0.3, late.write_bytes, [b"x" * 100]).start()
    checkpoints.seal(folder, "job", 2, {})
    assert checkpoints.damage(folder) is None


def test_the_parts_of_every_zero_stage_are_known() -> None:
    common = ["trainer_state.json", "latest", "rng_state_0.pth", "rng_state_1.pth"]
    zero0 = [*common, "global_step20/mp_rank_00_model_states.pt"]
    bf16 = [f"global_step20/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2)]
    zero3 = [f"global_step20/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(2)]
    assert checkpoints.missing(zero0, 2) == []
    assert checkpoints.missing([*zero0, *bf16], 2) == []
    assert checkpoints.missing([*common, *zero3, *bf16], 2) == []
    assert checkpoints.missing([*common, *zero3, bf16[0]], 2) == ["the optimizer's shard of rank 1"]
    assert checkpoints.missing(["latest", "rng_state_1.pth"], 2) == [
        "trainer_state.json",
        "the model's weights",
        "the random state of rank 0",
    ]


def test_checkpoints_of_another_job_or_world_size_are_refused_and_kept(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 20, world_size=2)
    with pytest.raises(ValueError, match=r"written by 2 ranks and this run has 1: run on 2 again \(run.devices"):
        checkpoints.latest(tmp_path, "job", 1)
    with pytest.raises(ValueError, match="a job with other parameters, data or initial model: undo what was changed"):
        checkpoints.latest(tmp_path, "another", 2)
    assert checkpoints.damage(folder) is None


def test_checkpoints_are_read_from_the_runs_own_folder_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """DeepSpeed's files are pickles: nothing in a run may lead to some that were written elsewhere."""
    elsewhere, mine = tmp_path / "elsewhere", tmp_path / "mine"
    checkpoint(elsewhere, 60)
    mine.mkdir()
    (mine / "checkpoint-60").symlink_to(elsewhere / "checkpoint-60")
    states = checkpoint(mine, 40) / "global_step40" / "mp_rank_00_model_states.pt"
    states.unlink()
    states.symlink_to(elsewhere / "checkpoint-60" / "global_step60" / "mp_rank_00_model_states.pt")
    (checkpoint(mine, 20) / "latest").write_text("../../elsewhr")  # as long as global_step20: the sizes agree
    assert checkpoints.latest(mine, "job", 1) is None
    said = capsys.readouterr().out
    assert said.count("it leads out of the run's own folder (a link)") == 2
    assert "its file `latest` names '../../elsewhr' instead of global_step20" in said
    assert checkpoints.damage(elsewhere / "checkpoint-60") is None
    (tmp_path / "linked").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is a link: checkpoints are read from the run's own folder only"):
        checkpoints.latest(tmp_path / "linked", "job", 1)
