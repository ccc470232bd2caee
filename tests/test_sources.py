"""Getting data sets: every source, resumed and refused downloads, trust on first use, offline, two processes."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import textwrap
from typing import get_args

import pandas as pd
import pytest
from hub_server import Repository

from qalign_core import miniature, prepare, runs, sources
from qalign_core.benchmarks import load_benchmark
from qalign_core.corpora import build_corpus
from qalign_core.params import DataSet
from qalign_core.sources import DownloadError, Lock

COMMIT = "a" * 40
SWAHILI = b"Swali la kwanza?\nSwali la pili?\n" * 4000
ENGLISH = b"The first question?\nThe second question?\n" * 4000
MGSM = b"question\t18\n" * 250


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lock_of(changes: dict | None = None, **hub: dict) -> Lock:
    pairs = {
        f"gsm8kinstruct_question/sw-en/train.{side}": {
            "path": f"data/train.{side}",
            "language": "sw",
            "git_blob": blob(c),
        }
        for side, c in (("sw", SWAHILI), ("en", ENGLISH))
    }
    mgsm = {"path": "mgsm_sw.tsv", "language": "sw", "rows": 250} | (changes or {})
    return Lock.model_validate(
        {
            "repository": {
                "url": "http://127.0.0.1:9",
                "commit": COMMIT,
                "data_sets": {"questions": {"licence": "none", "files": pairs}},
            },
            "hub": {"mgsm": {"licence": "x", "repo_id": "owner/mgsm", "files": {"mgsm/mgsm_sw.tsv": mgsm}}} | hub,
        }
    )


@pytest.fixture
def server(server):
    server.raw = {f"{COMMIT}/data/train.sw": SWAHILI, f"{COMMIT}/data/train.en": ENGLISH}
    server.repositories = {"datasets/owner/mgsm": Repository({"mgsm_sw.tsv": MGSM})}
    return server


@pytest.fixture
def questions(tmp_path, server):
    """Locate the question pairs from the local server."""
    return lambda **kw: sources.locate(
        "questions", "repository", cache_dir=tmp_path / "cache", languages=["sw", "en"], lock=lock_of(), **kw
    )


@pytest.fixture
def mgsm(tmp_path, server):
    """Locate mGSM from the local hub."""
    return lambda lock=None: sources.locate(
        "mgsm", "hub", cache_dir=tmp_path / "cache", languages=["sw"], lock=lock or lock_of()
    )


# ------------------------------------------------------------------------------------------------- the lock


def test_the_lock_holds_every_file_of_the_authors_list(reference_dir):
    listed = pd.read_csv(reference_dir / "qalign_files.csv", dtype=str).set_index("path")
    lock = sources.read_lock()
    assert lock.repository.commit.startswith("a65ee63")
    locked = {f.path: f for d in lock.repository.data_sets.values() for f in d.files.values()}
    telugu = {"evaluate/scripts/data/mgsm/mgsm_te.tsv", "evaluate/scripts/data/mgsm/mgsm_Telugu.json"}
    assert set(locked) == set(listed.index) - telugu
    for path, file in locked.items():
        row = listed.loc[path]
        assert file.git_blob == row.git_blob_sha1
        for value, text in ((file.bytes, row.bytes), (file.sha256, row.sha256)):
            assert str(value) == text if pd.notna(text) else value is None
        assert pd.isna(row.lines) or str(file.rows) == row.lines


def test_the_lock_knows_every_data_set_and_all_66045_pairs():
    lock = sources.read_lock()
    assert set(lock.hub) | set(lock.repository.data_sets) == set(get_args(DataSet))
    pairs = lock.repository.data_sets["questions"].files
    assert sum(file.rows for place, file in pairs.items() if place.endswith(".en")) == 66_045


@pytest.mark.filterwarnings("error")  # of files that are not the published ones
def test_the_real_files_are_the_locked_ones(data_dir, tmp_path):
    for data_set, languages in (("questions", ["sw", "fr"]), ("mgsm", None)):
        found = sources.locate(data_set, "folder", cache_dir=tmp_path, folder=data_dir, languages=languages)
        assert found == data_dir.absolute()


def test_a_broken_lock_names_the_place(tmp_path):
    lock = tmp_path / "lock.yaml"
    lock.write_text(
        "repository: {url: x, commit: y, data_sets: {}}\nhub: {mgsm: {licence: x, files: {a: {paht: b}}}}\n"
    )
    with pytest.raises(ValueError, match=r"lock\.yaml: hub\.mgsm\.files\.a"):
        sources.read_lock(lock)


# ------------------------------------------------------------------------------------------------- repository


def test_repository_gives_the_layout_and_asks_once(questions, server):
    root = questions()
    assert len(build_corpus("questions-x-en", root, ["sw"]).dataset) == 8000
    asked = len(server.requests)
    assert questions() == root
    assert len(server.requests) == asked


def test_a_cut_download_is_fetched_again(questions, server):
    server.cuts["train.sw"] = 100_000
    assert (questions() / "gsm8kinstruct_question/sw-en/train.sw").read_bytes() == SWAHILI
    assert len(server.asked("GET", "train.sw")) == 2


def test_another_file_than_the_locked_one_is_refused(questions, server, tmp_path):
    server.wrong["train.en"] = ENGLISH.replace(b"first", b"FIRST")
    with pytest.raises(DownloadError, match=r"train\.en: not the expected file: its git_blob is"):
        questions()
    assert not list((tmp_path / "cache").rglob("train.en*"))


def test_an_edited_file_in_the_cache_is_replaced(questions):
    path = questions() / "gsm8kinstruct_question/sw-en/train.sw"
    path.write_text("edited")
    questions()
    assert path.read_bytes() == SWAHILI


def test_404_and_an_unreachable_host_say_what_to_do(questions, server, monkeypatch):
    del server.raw[f"{COMMIT}/data/train.en"]
    with pytest.raises(DownloadError, match="no such file \\(404\\)"):
        questions()
    monkeypatch.setenv("QALIGN_REPOSITORY_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="use source 'folder'"):
        questions()


def test_two_processes_fetch_a_file_once(server, tmp_path):
    (tmp_path / "lock.json").write_text(lock_of().model_dump_json())
    program = textwrap.dedent(
        f"""
        from qalign_core import sources
        lock = sources.Lock.model_validate_json(open({str(tmp_path / "lock.json")!r}).read())
        sources.locate("questions", "repository", cache_dir={str(tmp_path / "cache")!r}, languages=["sw"], lock=lock)
        """
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert server.asked("GET", "train.sw") == [None]


# ------------------------------------------------------------------------------------------------- hub


def test_the_hub_file_is_laid_out_and_recorded(mgsm, tmp_path):
    root = mgsm()
    assert len(load_benchmark("mgsm", "sw", root)) == 250
    record = json.loads((tmp_path / "cache" / "recorded.lock.json").read_text())["owner/mgsm"]
    assert record["revision"] == "c0ffee" + "0" * 34
    assert record["files"]["mgsm/mgsm_sw.tsv"]["sha256"] == hashlib.sha256(MGSM).hexdigest()


def test_a_second_call_asks_nobody_and_mends_an_edited_file(mgsm, server, monkeypatch):
    path = mgsm() / "mgsm/mgsm_sw.tsv"
    asked = len(server.requests)
    mgsm()
    assert len(server.requests) == asked
    path.unlink()
    path.write_text("edited\t1\n")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mgsm()
    assert path.read_bytes() == MGSM


def test_what_was_recorded_binds_later_downloads(mgsm, server, tmp_path):
    path = mgsm() / "mgsm/mgsm_sw.tsv"
    moved = server.repositories["datasets/owner/mgsm"]
    moved.files["mgsm_sw.tsv"] = MGSM.replace(b"18", b"19")
    path.unlink()
    for cached in (tmp_path / "hf").iterdir():
        cached.rename(tmp_path / f"away-{cached.name}")
    with pytest.raises(DownloadError, match="not the expected file: its sha256"):
        mgsm()
    moved.commit = "d" * 40
    with pytest.raises(DownloadError, match=r"has no revision .* correct it in params/data\.lock\.yaml"):
        mgsm()


def test_a_pinned_checksum_is_binding_from_the_first_download(mgsm):
    with pytest.raises(DownloadError, match="its sha256 is"):
        mgsm(lock_of({"sha256": "0" * 64}))


def test_a_wrong_number_of_rows_is_refused(mgsm):
    with pytest.raises(DownloadError, match="it has 250 rows, the lock says 251"):
        mgsm(lock_of({"rows": 251}))


def test_files_in_large_storage_are_followed(mgsm, server):
    server.repositories["datasets/owner/mgsm"].stored_large.add("mgsm_sw.tsv")
    assert (mgsm() / "mgsm/mgsm_sw.tsv").read_bytes() == MGSM
    assert server.asked("GET", f"storage/{hashlib.sha256(MGSM).hexdigest()}")


def test_a_gated_data_set_says_how_to_get_in(mgsm, server, monkeypatch):
    server.repositories["datasets/owner/mgsm"].token = "hf_right"
    with pytest.raises(DownloadError, match=r"owner/mgsm is gated: accept its terms .* HF_TOKEN"):
        mgsm()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match="owner/mgsm is gated"):
        mgsm()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert mgsm()


@pytest.mark.parametrize(
    ("repo_id", "path", "message"),
    [
        ("owner/none", "mgsm_sw.tsv", r"mgsm_sw\.tsv: the hub has no data set owner/none"),
        ("owner/mgsm", "none.tsv", r"none\.tsv: owner/mgsm has no such file"),
    ],
)
def test_what_the_hub_does_not_have_is_named(tmp_path, server, repo_id, path, message):
    entry = {"licence": "x", "repo_id": repo_id, "files": {"mgsm/mgsm_sw.tsv": {"path": path}}}
    with pytest.raises(DownloadError, match=message):
        sources.locate("mgsm", "hub", cache_dir=tmp_path / "cache", languages=["sw"], lock=lock_of(mgsm=entry))


def test_offline_without_a_cache_says_so(mgsm, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="not in the hub's cache, and HF_HUB_OFFLINE is set"):
        mgsm()


def test_parquet_becomes_the_layouts_text_files(server, tmp_path):
    gsm8k, flores = io.BytesIO(), io.BytesIO()
    pd.DataFrame({"question": ["One?\nTwo?"], "answer": ["#### ৩"]}).to_parquet(gsm8k)
    pd.DataFrame({"id": [2, 1], "text": ["second", "first"]}).to_parquet(flores)
    files = {"train.parquet": gsm8k.getvalue(), "eng.parquet": flores.getvalue()}
    server.repositories["datasets/owner/tables"] = Repository(files)
    tables = {"licence": "x", "repo_id": "owner/tables"}
    lock = lock_of(
        gsm8k=tables | {"files": {"gsm8k/train.jsonl": {"path": "train.parquet", "rows": 1}}},
        flores=tables | {"files": {"flores/dev/en.txt": {"path": "eng.parquet", "rows": 2}}},
    )
    for data_set in ("gsm8k", "flores"):
        root = sources.locate(data_set, "hub", cache_dir=tmp_path / "cache", lock=lock)
    assert build_corpus("gsm8k", root, sft_data="gsm8k").dataset[0]["instruction"] == "One?\nTwo?"
    assert (root / "flores/dev/en.txt").read_text() == "first\nsecond\n"


def test_mgsm_is_read_where_it_moved_to(mgsm, server):
    table = io.BytesIO()
    rows = {"question": ["Swali?"] * 250, "answer": [None] * 250, "answer_number": [18] * 250}
    pd.DataFrame(rows).to_parquet(table)
    server.repositories["datasets/owner/mgsm"].files = {"sw/test.parquet": table.getvalue()}
    root = mgsm(lock_of({"moved": "sw/test.parquet"}))
    assert load_benchmark("mgsm", "sw", root)[249] == {"question": "Swali?", "answer": "18"}
    assert sources.read_lock().hub["mgsm"].files["mgsm/mgsm_sw.tsv"].moved == "sw/test-00000-of-00001.parquet"


def test_where_the_hub_fails_the_authors_copy_is_taken(mgsm, server, monkeypatch):
    lock = lock_of()
    copy = {"path": "data/mgsm_sw.tsv", "language": "sw", "git_blob": blob(MGSM)}
    known = {"licence": "x", "files": {"mgsm/mgsm_sw.tsv": copy}}
    lock.repository.data_sets["mgsm"] = sources.LockedDataSet.model_validate(known)
    server.repositories.clear()
    server.raw[f"{COMMIT}/data/mgsm_sw.tsv"] = MGSM
    with pytest.warns(
        UserWarning, match=r"no data set owner/mgsm.*The authors' own copy .*data\.sources\.mgsm: repository"
    ):
        root = mgsm(lock)
    assert len(load_benchmark("mgsm", "sw", root)) == 250
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match=r"with a network, `data\.sources\.mgsm: repository` gets the authors' own"):
        mgsm(lock)


# ------------------------------------------------------------------------------------------------- folder and others


def test_a_folder_lists_everything_it_lacks(tmp_path):
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "mgsm/mgsm_sw.tsv").write_text("q\t1\n")
    with pytest.raises(
        FileNotFoundError, match=r"lacks 1 of mgsm's files:\n  mgsm/mgsm_fr.tsv or mgsm/mgsm_French.json"
    ):
        sources.locate("mgsm", "folder", cache_dir=tmp_path, folder=tmp_path, languages=["sw", "fr"])


def test_a_folder_of_ones_own_data_is_warned_of_and_used(tmp_path):
    (tmp_path / "mgsm").mkdir()
    (tmp_path / "mgsm/mgsm_sw.tsv").write_text("q\t1\n")
    with pytest.warns(
        UserWarning,
        match=r"1 of mgsm's files .* not the published ones.*:\n  mgsm/mgsm_sw.tsv: it has 4 bytes, the lock",
    ):
        found = sources.locate("mgsm", "folder", cache_dir=tmp_path, folder=tmp_path, languages=["sw"])
    assert found == tmp_path


def test_a_data_set_that_its_source_does_not_have_is_refused_with_those_that_do(tmp_path):
    with pytest.raises(ValueError, match=r"questions is not at source 'hub'.*'repository' or 'folder' or 'miniature'"):
        sources.locate("questions", "hub", cache_dir=tmp_path)


def test_the_miniature_is_made_once_and_again_when_it_changed(tmp_path, monkeypatch):
    made, generator = [], runs.write_atomic(tmp_path / "package" / "__init__.py", "# version 1")

    def write_world(folder, *, seed):
        made.append(seed)
        (folder / "mgsm").mkdir(parents=True)
        (folder / "mgsm/mgsm_sw.tsv").write_text(f"q\t{seed}\n")
        runs.write_json(folder / "manifest.json", {"files": runs.sha256_tree(folder)})

    monkeypatch.setattr(miniature, "write_world", write_world)
    monkeypatch.setattr(miniature, "__file__", str(generator))

    def world(seed):
        return sources.locate("mgsm", "miniature", cache_dir=tmp_path / "cache", world={"seed": seed})

    assert world(1) == world(1) != world(2)
    assert made == [1, 2]
    (world(1) / "mgsm/mgsm_sw.tsv").write_text("edited\t0\n")
    assert load_benchmark("mgsm", "sw", world(1))[0]["answer"] == "1"
    generator.write_text("# version 2")
    world(1)
    assert made == [1, 2, 1, 1]


def test_data_sets_of_several_sources_are_linked_in_one_folder(questions, mgsm, tmp_path):
    run = tmp_path / "run"
    for _ in range(2):
        prepare.link_data_set(questions(), run, "questions", {})
        prepare.link_data_set(mgsm(), run, "mgsm", {})
    assert len(build_corpus("questions-x-en", run, ["sw"]).dataset) == 8000
    assert len(load_benchmark("mgsm", "sw", run)) == 250
    (run / "mgsm").unlink()
    (run / "mgsm").mkdir()
    with pytest.raises(FileExistsError, match="a folder of its own"):
        prepare.link_data_set(mgsm(), run, "mgsm", {})
