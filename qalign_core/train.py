"""Train one stage, or several in turn: `deepspeed --module qalign_core.train job.json [job.json ...]`.

Everything comes from the job and goes into its folder. A run that was killed goes on from its last complete checkpoint
when the same command is given again; on CPU it ends with the very weights of an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qalign_core import runs

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainingArguments

ENCODING = 2  # raised when a tokenised corpus has other columns: an interrupted run then tokenises it again
LOCK_SECONDS = 10  # how long a killed run's last process may take to die
BEATS = ".beats"  # in a job's folder: touched by whoever supervises ranks on several machines
BEATS_MISSED_SECONDS = 120.0  # a file server may show an old time for a minute


def main(argv: list[str] | None = None) -> None:
    """Run the jobs of the command line; see the module's description."""
    for job_path in jobs_from(argv, "qalign_core.train"):
        train(job_path)


def train(job_path: Path) -> None:
    """Run one job, from its file to its `done.json`."""
    # --------------------------------------------------------------------------------------------- job
    job, folder, root = read_job(job_path), job_path.parent, runs.run_root(job_path)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if runs.is_done(job_path):
        print(f"{job_path} is already done: nothing to do", flush=True)
        return
    lock = lock_folder(folder) if is_main else None
    started = time.time()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")  # bf16 on a CPU: every length is another shape to it
    prepare_deepspeed()

    import torch
    from accelerate.state import AcceleratorState
    from tensorboardX import SummaryWriter
    from transformers import set_seed
    from transformers.integrations import TensorBoardCallback

    from qalign_core import hub, models, trainer
    from qalign_core.kernels import BY_DOCUMENT
    from qalign_core.supervision import Collator

    # --------------------------------------------------------------------------------------------- seed, arguments
    AcceleratorState._reset_state(reset_partial_state=True)  # of a job before this one
    arguments = training_arguments(job, folder)
    set_seed(job["seed"])
    with arguments.main_process_first(local=False, desc="looking for a checkpoint"):  # machines share the folder
        found = trainer.latest(folder / "checkpoints", job["fingerprint"], arguments.world_size)
    checkpoint, totals = (str(found[0]), found[1]["totals"]) if found else (None, {})
    step = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
    heartbeat = trainer.Heartbeat(folder / "progress.jsonl", writes=is_main)
    heartbeat.rewind(step)
    heartbeat.beat("loading")
    if is_main:
        print(f"resuming from {checkpoint}" if checkpoint else "starting from the initial model", flush=True)
        print(f"computed with {job['fit']}" if "fit" in job else "", flush=True)

    # --------------------------------------------------------------------------------------------- corpus, model
    path, revision = hub.located(job["model"], root)
    tokenizer = models.load_tokenizer(path, revision)
    model = models.load_model(path, revision, BY_DOCUMENT if job["packing"] else "sdpa")
    models.add_pad_token(model, tokenizer, job.get("pad_token") or "<pad>")
    lora = job["lora"] if job.get("method") == "lora" else None
    if lora:
        model = models.add_adapters(model, lora)
    with arguments.main_process_first(local=False, desc="tokenising the corpus"):  # unless the notebook has done it
        corpus = encoded_corpus(job, job_path, tokenizer)

    # --------------------------------------------------------------------------------------------- train
    callbacks = [trainer.MasterWeights(path, revision), heartbeat]
    if is_main:  # what an interrupted run logged from `purge_step` on is void
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)))
    stage = trainer.StageTrainer(
        fingerprint=job["fingerprint"],
        totals=totals,
        started=started,
        check_packing=job["packing"],
        model=model,
        args=arguments,
        train_dataset=corpus,
        data_collator=Collator(tokenizer.pad_token_id, job["packing"], job["loss"]),
        callbacks=callbacks,
    )
    heartbeat.trainer = stage
    stage.train(resume_from_checkpoint=checkpoint)

    # --------------------------------------------------------------------------------------------- save
    heartbeat.beat("saving", step=stage.state.global_step, total_steps=stage.state.max_steps)
    model, state = stage.model, models.full_state_dict(stage.model, keep=is_main)
    peak = stage.accelerator.gather(torch.tensor([peak_memory()], dtype=torch.float64, device=arguments.device)).max()
    if lock is not None:  # the main rank
        if lora:
            model, state = models.merged(model, state, tokenizer, path, revision), {}
        models.save_model(model, tokenizer, folder / "model", state, job.get("template") or "alpaca")
        runs.sync_tree(folder / "model")
        files = {f"model/{name}": digest for name, digest in runs.sha256_tree(folder / "model").items()}
        runs.write_done(
            folder,
            job["fingerprint"],
            metrics(stage, corpus, job),
            model=job["model"],
            files=files,
            wall_seconds=round(stage.seconds(), 3),
            peak_memory_bytes=int(peak),  # of the hungriest rank
        )
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        lock.release()


# ------------------------------------------------------------------------------------------------- job


def jobs_from(argv: list[str] | None, module: str) -> Iterator[Path]:
    """The jobs on the command line, one after the other: what comes after the first writes into a log of its own.

    DeepSpeed's launcher adds `--local_rank`, which the environment says too.
    """
    parser = argparse.ArgumentParser(prog=f"deepspeed --module {module}")
    parser.add_argument("jobs", nargs="+", type=Path, help="paths of job.json; everything is written beside each")
    parser.add_argument("--local_rank", type=int, default=0, help="set by DeepSpeed's launcher")
    for number, path in enumerate(parser.parse_args(argv).jobs):
        if number:
            with path.with_name("log.txt").open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
        else:
            begin(path.absolute().parent)
        yield path.absolute()


def read_job(path: Path) -> dict[str, Any]:
    """Read a training job; a ValueError says what is wrong with it."""
    job = runs.read_json(path)
    needed = {"kind", "fingerprint", "seed", "model", "corpus", "max_length", "loss", "packing"}
    needed |= {"training_arguments", "deepspeed"}
    if missing := sorted(needed - job.keys()):
        raise ValueError(f"{path}: keys are missing: {', '.join(missing)}")
    method = job.get("method", "full")
    if job["kind"] != "train" or job["loss"] not in ("paper", "token") or method not in ("full", "lora"):
        got = f"got kind={job['kind']!r}, loss={job['loss']!r}, method={method!r}"
        raise ValueError(f"{path}: kind must be train, loss paper or token, method full or lora; {got}")
    if method == "lora" and not job.get("lora"):
        raise ValueError(f"{path}: method lora needs the key lora: rank, alpha, dropout, target_modules, embeddings")
    return job


def lock_folder(folder: Path) -> Any:
    """Hold the job's folder until this process ends, however it ends; a RuntimeError if another one does."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        return lock.acquire(timeout=LOCK_SECONDS).lock
    except Timeout:
        raise RuntimeError(f"{folder}: another process is training here; wait for it to end or stop it") from None


def training_arguments(job: dict[str, Any], folder: Path) -> TrainingArguments:
    """The job's `TrainingArguments`; making them starts the ranks' communication and, under ZeRO-3, sharded loading."""
    import torch
    from transformers import TrainingArguments

    ours = {
        "output_dir": str(folder / "checkpoints"),
        "seed": job["seed"],
        "data_seed": job["seed"],
        "deepspeed": json.loads(json.dumps(job["deepspeed"])),  # a copy: transformers fills in its "auto" values
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "length_column_name": "tokens",
        "ddp_timeout": 4 * 3600,  # seconds that ranks wait for the one that writes and hashes 52 GB of weights (13B)
    }
    given = {"report_to": "none", "save_total_limit": 2, "logging_steps": 10} | job["training_arguments"]
    trackers = [given["report_to"]] if isinstance(given["report_to"], str) else given["report_to"]
    given["report_to"] = [name for name in trackers if name != "tensorboard"] or ["none"]  # which is written anyway
    if given.get("bf16") and job["deepspeed"].get("zero_optimization", {}).get("stage", 0) == 0:
        raise ValueError("training_arguments: bf16 needs ZeRO stage 1, 2 or 3 (fp32 master weights and accumulation)")
    if not torch.cuda.is_available():
        given.pop("tf32", None)
    return TrainingArguments(**given | ours)


def newest_step(folder: Path) -> int:
    """The update of the newest sealed checkpoint in a job's `checkpoints`, 0 without any."""
    return max((int(file.parent.name.rpartition("-")[2]) for file in folder.glob("*-[0-9]*/complete.json")), default=0)


# ------------------------------------------------------------------------------------------------- corpus


def tokenise(job: dict[str, Any], job_path: Path) -> None:
    """Tokenise a job's corpus before its ranks start, with all cores, unless a stage of this run has done it."""
    from qalign_core import hub, models

    tokenizer = models.load_tokenizer(*hub.located(job["model"], runs.run_root(job_path)))
    if tokenizer.pad_token is None:  # as it is trained with
        tokenizer.add_special_tokens({"pad_token": job.get("pad_token") or "<pad>"})
    encoded_corpus(job, job_path, tokenizer)


def encoded_corpus(job: dict[str, Any], job_path: Path, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """The job's corpus, tokenised once in a run by the first that asks; all others map its file into memory."""
    from datasets import Dataset
    from filelock import FileLock

    from qalign_core.supervision import encode_corpus

    root, corpus, template = runs.run_root(job_path), job["corpus"], job.get("template") or "alpaca"
    path = Path(runs.resolve(corpus["path"], root))
    inside = Path(os.path.normpath(root / corpus["path"])).is_relative_to(os.path.normpath(root))
    if (root / "profile.yaml").is_file() and not inside:
        raise ValueError(f"{job_path}: its corpus {path} is not in the run folder {root}; delete the file")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such corpus; run notebook 01 to build it")
    decides = [ENCODING, runs.sha256_file(path), job["max_length"], template, tokenizer.chat_template]
    if corpus.get("sha256") and decides[1] != corpus["sha256"]:
        raise ValueError(f"{path}: not the corpus this job was made for (sha256 differs); run notebook 01 again")
    key = runs.fingerprint([*decides, json.loads(tokenizer.backend_tokenizer.to_str()), tokenizer.eos_token])
    target = root / "data" / "encoded" / f"{corpus['name']}-{key[:16]}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                part = target.with_name(f".{target.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                rows = runs.read_json_lines(path)
                encode_corpus(rows, tokenizer, job["max_length"], template=template).save_to_disk(part)
                runs.sync_tree(part)
                part.rename(target)
    return Dataset.load_from_disk(str(target))


# ------------------------------------------------------------------------------------------------- done


def metrics(trainer: Any, corpus: Dataset, job: dict[str, Any]) -> dict[str, Any]:
    """What is worth knowing about the stage; the whole loss curve is in `progress.jsonl`."""
    import numpy as np

    from qalign_core.models import whole_shape

    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    steps = np.diff([0] + [step for step, _ in curve])
    return {
        "updates": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "train_loss": float(np.average([loss for _, loss in curve], weights=steps)),
        "final_loss": curve[-1][1],
        "tokens": trainer.totals["tokens"],
        "target_tokens": trainer.totals["target_tokens"],
        "rows": len(corpus),
        "rows_cut": int((np.asarray(corpus["tokens"]) > job["max_length"]).sum()),
        "rows_joined": sum(corpus["joined"]),
        "rows_without_target": sum(max(labels) < 0 for labels in corpus["labels"]),
        "trained_parameters": sum(whole_shape(p).numel() for p in trainer.model.parameters() if p.requires_grad),
        "world_size": trainer.args.world_size,
    }


def peak_memory() -> int:
    """Most memory this rank has used so far, in bytes: of its GPU, or of its process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ------------------------------------------------------------------------------------------------- rank set-up


def begin(folder: Path) -> None:
    """What every rank does first: find its number, and watch those that started it; none goes on alone."""
    if "RANK" not in os.environ:  # DeepSpeed's own launcher did not number this process
        for name, value in scheduler_rank(os.environ).items():
            os.environ.setdefault(name, value)
    launcher = os.getppid() if "RANK" in os.environ else None
    threading.Thread(target=watch, args=[folder / BEATS, launcher], daemon=True).start()


def watch(beats: Path, launcher: int | None, interval: float = 0.5, limit: float = BEATS_MISSED_SECONDS) -> None:
    """End this process soon after the death of its launcher or of the notebook that started it, which cannot stop what
    it started once it is killed; or after the touching of the file `beats` has ended.

    Ranks on other machines than the notebook's cannot see its process, but they share the run folder. The file names
    its supervisor: once seen to be touched, it must be touched again within `limit` seconds, and not vanish or name
    another supervisor for some looks. One that a killed supervisor left behind is never touched and ends no rank.
    """
    seen, since = touched(beats), None  # since: when a new touch was last seen
    while launcher is None or os.getppid() == launcher:
        time.sleep(interval)
        if not runs.starter_lives():
            who = f"the process that started this job (pid {os.environ[runs.LIFELINE].partition(':')[0]})"
            break
        now = touched(beats)
        same = now is not None and seen is not None and now[0] == seen[0]
        if same and now != seen:
            seen, since = now, time.monotonic()
        if since is not None and time.monotonic() - since > (limit if same else 12 * interval):
            who = "whoever supervised this rank from another machine"
            break
    else:
        who = f"the launcher of this rank (pid {launcher})"
    os.write(2, f"{who} is gone: stopping\n".encode())
    os._exit(3)


def touched(path: Path) -> tuple[str, int] | None:
    """What a file says, and when it was last touched in its server's nanoseconds (opening it asks the server anew)."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.read(), os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return None


def scheduler_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE and the like from the variables of `srun` or `mpirun`; empty where they started one process.

    DeepSpeed's runners for both start the ranks, but tell them neither their number nor where rank 0 is.
    """
    get = environment.get
    if (world := get("OMPI_COMM_WORLD_SIZE", "1")) != "1":
        rank, local_rank = environment["OMPI_COMM_WORLD_RANK"], environment["OMPI_COMM_WORLD_LOCAL_RANK"]
        local_size, port = get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"), get("MASTER_PORT", "29500")
        address = get("MASTER_ADDR", "127.0.0.1" if local_size == world else "")
        if not address:
            why = f"mpirun started {world} ranks on several machines, and none knows where rank 0 is"
            remedy = "give its host with `mpirun -x MASTER_ADDR=<host>`"
            raise RuntimeError(f"{why}: {remedy}; with run.hostfile and run.launcher: openmpi this is done for you")
    # A batch script itself has SLURM_PROCID and SLURM_NTASKS too; only what `srun` starts has SLURM_STEP_NUM_TASKS.
    elif (world := get("SLURM_STEP_NUM_TASKS", "1")) != "1" and "SLURM_PROCID" in environment:
        rank, local_rank, sizes = environment["SLURM_PROCID"], environment["SLURM_LOCALID"], []
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", get("SLURM_STEP_TASKS_PER_NODE", world)):
            sizes += [count] * int(times or 1)  # ranks of each node: `2(x3),1` is 2, 2, 2, 1
        local_size, several = sizes[int(get("SLURM_NODEID", "0"))], get("SLURM_STEP_NUM_NODES", "1") != "1"
        address = first_host(environment["SLURM_STEP_NODELIST"]) if several else "127.0.0.1"
        # The same port for all ranks of the step, another for other steps.
        port = str(20000 + (int(get("SLURM_JOB_ID", "0")) * 31 + int(get("SLURM_STEP_ID", "0"))) % 10000)
    else:
        return {}
    numbers = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local_rank, "LOCAL_SIZE": local_size}
    return numbers | {"MASTER_ADDR": address, "MASTER_PORT": port}


def first_host(hosts: str) -> str:
    """The first host of Slurm's list: `node03` of `node[03-05,9],login`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", hosts)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first.group() if first else hosts)


def prepare_deepspeed() -> None:
    """Choose the CPU where there is no GPU, and keep DeepSpeed from compiling or warning of what is not used here.

    Without a launcher (`python -m qalign_core.train job.json`) this process is the only rank.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in os.environ:
        from accelerate.utils.other import get_free_port

        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(get_free_port())}
    # An offloaded optimizer is compiled by ninja, which pip puts beside Python: perhaps nowhere on the PATH.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable)])
    # DeepSpeed uses names of torch.distributed that this torch calls deprecated, in every update under ZeRO-3.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    import datasets
    import deepspeed
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    deepspeed.runtime.compiler.compile = lambda: lambda kernel: kernel  # Muon's, which take seconds and are never used
    # Shared-memory all-reduce for inference: a minute of C++ at the first start, never called in training.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def leave_together() -> None:
    """Wait for every rank, then close their communication: a rank that just ended could take a saving one down."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    leave_together()
