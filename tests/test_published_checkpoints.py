"""The published checkpoints of the paper's tables: all are listed, and one that cannot be read is named."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from subprocess import run

from qalign_core import params
from qalign_core.results import published_cells


def test_every_published_checkpoint_is_a_system_with_a_template(reference_dir: Path):
    text = (reference_dir / "SOURCES.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\w.-]+/[\w.-]+) \| ([\w.-]+/[\w.-]+) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    systems = params.load("checkpoints").systems.values()
    listed = {system.checkpoint for system in systems}
    assert listed == {name for row in rows if row[0] != "base" for name in row[1:]}
    assert {system.template for system in systems} == {"alpaca"}


def test_every_published_checkpoint_stands_beside_its_published_number():
    for name, system in params.load("checkpoints").systems.items():
        row, _, size = (system.published or "").rpartition(" ")
        assert size == name.rpartition(" ")[2]
        for benchmark in ("mgsm", "msvamp"):
            cells = published_cells(benchmark, size).set_index(["system", "language"])
            assert (row, "average") in cells.index, (name, benchmark)


def test_the_job_of_a_missing_checkpoint_ends_with_its_name(tmp_path: Path):
    task = {"name": "mgsm", "language": "en", "path": "p.jsonl", "sha256": "0", "max_new_tokens": 1}
    job = {"fingerprint": "x", "model": {"path": "Nobody/no-such-7B", "revision": None}, "model_fingerprint": "m"}
    job |= {"dtype": "float32", "batch_tokens": 8, "tasks": [task], "pad_token": "<pad>"}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "qalign_core.generate", str(tmp_path / "job.json")]
    ended = run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "Nobody/no-such-7B is not in the hub's cache" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "done.json").exists()
