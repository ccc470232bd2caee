"""README's examples of several machines are ones that the profile, the host file's reader and the launcher take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from qalign_core import launch, params, plan
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError
from qalign_core.plan import hostfile, machines

README = (PARAMS_FOLDER.parent / "README.md").read_text(encoding="utf-8")


def block(kind: str, beginning: str) -> str:
    """The code block of README that begins so."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return next(text for found, text in blocks if found == kind and text.startswith(beginning))


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """llama2-7b on README's two machines."""
    (tmp_path / "hosts.txt").write_text(block("", "worker-1"))
    sections = yaml.safe_load((PARAMS_FOLDER / "llama2-7b.yaml").read_text(encoding="utf-8"))
    sections["run"] |= yaml.safe_load(block("yaml", "run:"))["run"]
    sections["run"]["hostfile"] = str(tmp_path / sections["run"]["hostfile"])
    accumulation = re.search(r"With two machines an update stays (\d+) sequences at `(\w+): (\d+)`", README)
    assert accumulation
    assert accumulation[1] == "128"
    sections["training"][accumulation[2]] = int(accumulation[3])
    return params.validate(sections)


def test_readmes_two_machines_make_the_papers_update(profile: Profile):
    assert machines(profile) == 2
    assert plan.effective_batch_size(profile, "metamathqa") == 128


def test_readmes_profile_reaches_the_launcher(profile: Profile):
    line = launch.command(Path("/shared/run/job.json"), "qalign_core.train", profile)
    assert line[line.index("--hostfile") + 1] == profile.run.hostfile
    assert line[line.index("--launcher") + 1] == "slurm"
    assert "--launcher_args=--ntasks-per-node=8" in line


def test_readmes_batch_script_asks_for_what_the_profile_uses(profile: Profile, tmp_path: Path):
    script = block("bash", "#!/bin/bash")
    asked = dict(re.findall(r"#SBATCH --([\w-]+)=(\S+)", script))
    assert int(asked["nodes"]) == machines(profile)
    assert int(asked["ntasks-per-node"]) == int(asked["gpus-per-node"]) == profile.run.devices
    slots = re.search(r"s/\$/(.*?)/", script)
    assert slots
    (tmp_path / "hosts.txt").write_text("".join(f"node{n:02d}{slots[1]}\n" for n in range(2)))
    assert machines(profile) == 2
    assert f"PROFILE={profile.run.profile}" in script


def test_a_host_file_that_does_not_fit_is_refused(profile: Profile, tmp_path: Path):
    (tmp_path / "hosts.txt").write_text("# mine\nworker-1 slots=8\nworker-2 slots=4\n")
    with pytest.raises(ProfileError, match=r"'worker-2 slots=4' must be `<host> slots=8`, as run\.devices says"):
        machines(profile)
    (tmp_path / "hosts.txt").unlink()
    with pytest.raises(ProfileError, match=r"run\.hostfile: no file .*hosts\.txt"):
        hostfile(profile)
