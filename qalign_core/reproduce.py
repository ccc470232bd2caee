"""All notebooks of a profile, in order, by papermill: `python -m qalign_core.reproduce PROFILE`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qalign_core import cost, evaluate, launch, params, plan, prepare, runs
from qalign_core.hub import DownloadError, cache_dir, is_offline
from qalign_core.languages import nearest
from qalign_core.launch import clock, describe, latest, share_done
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError
from qalign_core.plan import Job
from qalign_core.runs import BadRow, Run

NOTEBOOKS_FOLDER = PARAMS_FOLDER.parent / "notebooks"
STATE = "state.json"  # which notebooks of a run were executed, from what
RESULTS = ("done.json", "accuracy.csv", "agreement.csv")  # what must still be there for a notebook to count as executed
# Errors that were written for the person who reads them: where in the code they were raised does not matter.
PLAIN_ERRORS = (
    *("JobError", "ProfileError", "BadRow", "DownloadError"),
    *("FileNotFoundError", "FileExistsError", "NotADirectoryError", "PermissionError"),
)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal
# Where matplotlib (its list of fonts), Triton, torch's compiler, DeepSpeed's compiled operators and NVIDIA's compiler
# keep what they write by themselves: in our cache, unless the variable is set, not all over a home folder.
CACHES = {
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
    "CUDA_CACHE_PATH": "cuda",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a profile's notebooks; the exit code is 0 only if every one of them succeeded."""
    options, console = parser().parse_args(arguments), Console(highlight=False)
    if options.run_dir is not None and not options.run_dir.strip():  # as of a shell variable that is not set
        parser().error("--run-dir: is empty; name a folder, or leave the option out for runs/PROFILE")
    try:
        profile = params.load(options.profile)
        if options.systems:
            profile = evaluate.with_systems(profile, named(profile, options.systems))
        chosen = select(profile, options.only, options.start)
        plan.machines(profile)  # the host file and DeepSpeed's JSON are there, and of use
        if plan.stages(profile):
            plan.deepspeed_config(profile)
        run = plan.open_run(profile, options.run_dir, read_only=True)
        if options.dry_run:
            for line in changes(options.profile):
                console.print(line, markup=False, soft_wrap=True)
            dry_run(profile, run, chosen, console)
            return 0
        if options.start_page:
            write_start_page(profile, run)
            return 0
        check(profile, run, chosen)
        if not launch.gpu_count():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it looked for a GPU in vain
        plan.open_run(profile, options.run_dir)
        with FileLock(run.folder / ".lock", timeout=0), confined(run):
            return reproduce(profile, run, chosen, console)
    except Timeout:
        reason = f"another process is reproducing into {run.folder}: wait for it, or stop it"
    except (ProfileError, BadRow, OSError) as error:  # OSError: no permission, no space
        reason = str(error)
    except KeyboardInterrupt:
        console.print("\ninterrupted; what is finished is kept. Run the same command to go on.")
        return 130
    console.print(f"[bold red]error[/] {escape(reason)}", soft_wrap=True)
    return 2


def named(profile: Profile, names: str) -> list[str]:
    """Systems, named with commas between them; ProfileError for an unknown one."""
    wanted = [names] if names in profile.systems else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in profile.systems:
            known = ", ".join(profile.systems)
            raise ProfileError(f"no system is named {name!r}{nearest(name, profile.systems)}; there are: {known}")
    return wanted


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m qalign_core.reproduce", description=__doc__)
    found.add_argument("profile", help="a name in params/ (mini, llama2-7b, ...) or a path of a YAML file")
    found.add_argument("--only", nargs="+", metavar="NN", help="run only these notebooks, such as: 04 05")
    found.add_argument("--from", dest="start", metavar="NN", help="run this notebook and those after it")
    found.add_argument("--systems", metavar="NAMES", help="only these systems, with commas between them")
    found.add_argument("--dry-run", action="store_true", help="print what is done and what is to do, run nothing")
    found.add_argument("--start-page", action="store_true", help="write what JupyterLab opens with, runs/START.md")
    found.add_argument("--run-dir", metavar="DIR", help="another run folder than runs/PROFILE")
    return found


def notebooks_of(profile: Profile) -> list[Path]:
    """The notebooks a profile needs: without anything to train no 02, 03 and 06, without a second stage no 02."""
    without = ("02", "03", "06") if not plan.stages(profile) else () if profile.first_stage() else ("02",)
    return [p for p in sorted(NOTEBOOKS_FOLDER.glob("[0-9][0-9]_*.ipynb")) if p.name[:2] not in without]


def select(profile: Profile, only: list[str] | None, start: str | None) -> list[Path]:
    """The notebooks that were asked for, in order; ProfileError for an unknown number, or when nothing is left."""
    known = {path.name[:2]: path for path in notebooks_of(profile)}
    for number in [*(only or []), *([start] if start else [])]:
        if number not in known:
            raise ProfileError(f"no notebook {number!r} for profile {profile.run.profile}; there are {' '.join(known)}")
    chosen = [path for number, path in known.items() if (not only or number in only) and number >= (start or "")]
    if not chosen:
        raise ProfileError(f"no notebook is left: --only {' '.join(only or [])} are all before --from {start}")
    return chosen


# ------------------------------------------------------------------------------------------------- before it runs


def check(profile: Profile, run: Run, chosen: list[Path]) -> None:
    """Refuse, before anything runs, what would else stop it hours later: absent external predictions, fewer GPUs than
    the profile wants, and what would have to be fetched where nothing may be."""
    if any(path.name.startswith("04") for path in chosen):
        for title, there, why in evaluate.external_overview(profile):
            if not there:
                raise ProfileError(f"{' '.join(title.split())}, but {why}")
    launch.check_devices(profile)
    if is_offline():
        numbers = {p.name[:2] for p in chosen if why_to_do(run, run.notebooks / p.name, notebook_identity(p, profile))}
        undone = any(not done for _, done, _ in overview(profile, run))
        prepare.refuse(profile, data="01" in numbers, model=undone and bool(numbers))


@contextmanager
def confined(run: Run) -> Iterator[None]:
    """Inside, this process and those it starts write into the run folder and the cache only; IPython's own profile is a
    folder that is deleted at the end."""
    cache = cache_dir() / "tools"
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    cache = cache if os.access(cache, os.W_OK) else run.folder / ".tools"  # where others fill the cache
    with TemporaryDirectory(prefix="qalign-") as scratch:
        wanted = {name: str(cache / folder) for name, folder in CACHES.items()}
        wanted |= {"IPYTHONDIR": f"{scratch}/ipython", "JUPYTER_RUNTIME_DIR": f"{scratch}/jupyter"}
        added = {name: value for name, value in wanted.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)


# ------------------------------------------------------------------------------------------------- running


def reproduce(profile: Profile, run: Run, chosen: list[Path], console: Console) -> int:
    """Execute the chosen notebooks, then print the tables and where everything is."""
    begun = time.monotonic()
    console.print(f"[bold]{profile.run.profile}[/] → {_short(run.folder)}")
    for path in chosen:
        identity, output = notebook_identity(path, profile), run.notebooks / path.name
        if not why_to_do(run, output, identity):
            console.print(f"  [green]✓[/] {path.stem:<32} already done")
            continue
        started = time.monotonic()
        if problem := execute(path, output, profile, run, console):
            console.print(f"  [red]✗[/] {path.stem:<32} failed after {clock(time.monotonic() - started)}\n")
            console.print(problem, markup=False, soft_wrap=True)
            console.print(f"\nThe notebook up to its failed cell: {_short(unfinished(output))}", soft_wrap=True)
            return 1
        remember(run, output, identity)
        console.print(f"  [green]✓[/] {path.stem:<32} {clock(time.monotonic() - started)}")
    summary(profile, run, console)
    console.print(f"\ndone in {clock(time.monotonic() - begun)}")
    return 0


def execute(path: Path, output: Path, profile: Profile, run: Run, console: Console) -> str | None:
    """Execute one notebook by papermill in a kernel of its own; what was executed before stays until this one is done.

    Returns the failed cell's traceback, or how the kernel died, and what the kernel said outside of its cells.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    attempt = unfinished(output)
    attempt.parent.mkdir(parents=True, exist_ok=True)
    no_bars = dict.fromkeys(("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"), "1")
    os.environ |= {plan.RUN_FOLDER: str(run.folder), **no_bars}  # a bar on a page stands still
    log = attempt.with_suffix(".log")
    try:
        stages = to_train(profile, run, path.name[:2])
        with watch(path.stem, run, console, stages), TemporaryDirectory(prefix="qalign-") as sockets, stderr_into(log):
            # The kernel speaks through sockets in a folder of the user's own, not through open ports.
            config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
            how = {"kernel_name": "python3", "progress_bar": False, "log_output": False, "cwd": NOTEBOOKS_FOLDER}
            papermill.execute_notebook(path, attempt, profile.model_dump(mode="json"), config=config, **how)
    except PapermillExecutionError as error:
        if error.ename in PLAIN_ERRORS:
            return f"{error.ename}: {error.evalue}"
        return COLOURS.sub("", "\n".join(error.traceback)) + kernel_said(log)
    except DeadKernelError:
        return f"The notebook's kernel died (out of memory?). Run the same command to go on.{kernel_said(log)}"
    finally:
        os.environ.pop(plan.RUN_FOLDER, None)
    os.replace(attempt, output)
    log.unlink(missing_ok=True)
    return None


def unfinished(output: Path) -> Path:
    """Where a notebook stands while it is executed, and stays if it fails."""
    return output.parent / "unfinished" / output.name


@contextmanager
def stderr_into(log: Path) -> Iterator[None]:
    """Let this process and the kernels it starts write to a log what they write to stderr."""
    kept = os.dup(2)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def kernel_said(log: Path, lines: int = 20) -> str:
    """The end of what a kernel wrote to stderr, to be shown after what went wrong, if there is any."""
    said = COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace")).strip().splitlines()
    return f"\n\nThe last lines its kernel wrote ({_short(log)}):\n" + "\n".join(said[-lines:]) if said else ""


@contextmanager
def watch(name: str, run: Run, console: Console, stages: Sequence[str] = ()) -> Iterator[None]:
    """While a notebook runs, show a line for it (its place in `stages`), and one for what it trains or generates."""
    stopped, begun, spinner = threading.Event(), time.monotonic(), Spinner("dots")

    def follow(live: Live) -> None:
        seen, said = [], time.monotonic()  # the chapter's jobs so far
        while not stopped.wait(0.2):
            folder, state = running_job(run)
            seen += [folder] if folder and folder not in seen else []
            job = folder.split("/base", 1)[-1].strip("/") or "base" if folder else None
            if console.is_terminal:
                frame: Any = spinner.render(time.monotonic())
                place = f"  job {len(seen)}" if seen else ""
                place = f"  stage {stages.index(folder) + 1} of {len(stages)}" if folder in stages else place
                head = Text.assemble(frame, f" {name}  {clock(time.monotonic() - begun)}{place}")
                live.update(Group(head, job_line(job, state, console.width)) if job else head, refresh=True)
            elif job and time.monotonic() - said > 30:
                said = time.monotonic()
                console.print(f"    {escape(f'{job}: {describe(state)}')}", soft_wrap=True)

    with Live(console=console, transient=True, auto_refresh=False) as live:
        follower = threading.Thread(target=follow, args=(live,), daemon=True)
        follower.start()
        try:
            yield
        finally:
            stopped.set()
            follower.join()


def job_line(job: str, state: dict[str, Any] | None, width: int) -> Table:
    """A job's bar and state on one line, the time left first: what `width` columns do not hold goes from the end."""
    said = describe(state).split(" · ")
    said = [said[-1], job, *said[:-1]] if said[-1].endswith(" left") else [job, *said]
    while len(said) > 1 and 19 + len(" · ".join(said)) > width:
        said.pop()
    line, share = Table.grid(padding=(0, 1), expand=True), share_done(state)
    line.add_column(width=18)
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_row("" if share is None else ProgressBar(total=1.0, completed=share, width=18), Text(" · ".join(said)))
    return line


def running_job(run: Run) -> tuple[str | None, dict[str, Any] | None]:
    """The folder of the job that a notebook of this run has started, and the last line of its progress."""
    try:
        current = runs.read_object(run.folder / launch.CURRENT)
    except (FileNotFoundError, BadRow):  # nothing runs
        return None, None
    folder = Path(current["job"]).parent
    return folder.as_posix(), latest(run.folder / folder / "progress.jsonl", since=current["since"])


def to_train(profile: Profile, run: Run, chapter: str) -> list[str]:
    """The folders of the stages that a chapter will train, in order, without those that are done."""
    stages = [stage for stage in plan.stages(profile) if cost.chapter(profile, stage) == chapter]
    folders = [run.stage(seed, stage) for seed in profile.run.seeds for stage in stages]
    return [run.relative(folder) for folder in folders if not runs.is_done(folder / "job.json")]


# ------------------------------------------------------------------------------------------------- what is done


def notebook_identity(path: Path, profile: Profile) -> str:
    """What an executed notebook depends on: its cells, the profile, external predictions, the package's code.

    Outputs do not count: JupyterLab saves them into the notebook that was read by hand.
    """
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in runs.read_json(path)["cells"]]
    package = runs.sha256_tree(Path(__file__).parent)
    code = {name: digest for name, digest in package.items() if name.endswith(".py")}
    return runs.fingerprint([cells, profile.model_dump(mode="json"), code, evaluate.external_files(profile)])


def why_to_do(run: Run, output: Path, identity: str) -> str:
    """Why a notebook has to be executed, in words; nothing if it need not."""
    entry = _entries(run).get(output.name)
    if not (entry and output.is_file()):
        return "not executed yet"
    if entry["identity"] != identity:
        return "it, the profile, the package's code or a file the profile names has changed"
    absent = next((name for name in entry["files"] if not (run.folder / name).is_file()), None)
    return f"{absent} is gone" if absent else ""


def remember(run: Run, output: Path, identity: str) -> None:
    """Record that a notebook was executed, with the result files that were there when it ended."""
    made = [run.relative(p) for p in sorted(run.folder.rglob("*")) if p.is_file() and p.name in RESULTS]
    runs.write_json(run.notebooks / STATE, _entries(run) | {output.name: {"identity": identity, "files": made}})


def _entries(run: Run) -> dict[str, Any]:
    """What is recorded of a run's notebooks; nothing if that is damaged: they are executed again, jobs are not."""
    try:
        return runs.read_object(run.notebooks / STATE)
    except (FileNotFoundError, BadRow):
        return {}


def overview(profile: Profile, run: Run) -> Iterator[tuple[str, bool, str]]:
    """Every stage and all predictions generated here, in order: its name, whether it is done, and why not."""
    for seed in profile.run.seeds:
        for lineage in plan.stages(profile):
            title = f"stage      seed {seed}: {' → '.join(lineage) or 'base'}"
            yield _state(title, plan.stage_job, profile, run, seed, lineage)
        first = profile.first_stage()
        if first and profile.evaluation.translation:
            yield _state(f"translated seed {seed}: by {first}", plan.translation_job, profile, run, seed, [first])
        for system, entry in profile.systems.items():
            if entry.translator is not None:
                yield _state(f"translated seed {seed}: {system}", plan.translator_job, profile, run, system, seed)
            if entry.predictions is None:
                yield _state(f"answers    seed {seed}: {system}", plan.prediction_job, profile, run, system, seed)


def _state(name: str, make: Callable[..., Job], *arguments: Any) -> tuple[str, bool, str]:
    try:
        job = make(*arguments)
        path = job.folder / "job.json"
        if job.done:
            gone = runs.missing_file(job.folder)
            return name, True, f"but {gone} is gone; delete its done.json too, to have it made again" if gone else ""
        if not path.is_file():
            return name, False, "not begun"
        if runs.read_object(path).get("fingerprint") == job.content["fingerprint"]:
            return name, False, "begun: will be resumed"
        return name, False, f"was {'finished' if runs.is_done(path) else 'begun'} with other settings"
    except plan.NotTranslatedError:
        return name, False, "its questions are not translated yet"
    except FileNotFoundError:  # its data, or the base model, which notebook 01 prepares
        return name, False, "its data is prepared by notebook 01"
    except BadRow as error:
        return name, False, str(error)


# ------------------------------------------------------------------------------------------------- what is shown


def summary(profile: Profile, run: Run, console: Console) -> None:
    """Print Tables 2 and 3, the numbers that were to be checked, and the paths of what a person may want to open."""
    from qalign_core.results import read_results
    from qalign_core.show import pages, report

    front = ""
    if (run.results / "accuracy.csv").is_file():
        results = read_results(run.results)
        tables = report.run_tables(results)
        front = report.front(run, results, tables)
        report.print_results(results, tables, console)
        averages = results.tables["intervals"].query("measure == 'average'")
        averages = averages.groupby(["system", "benchmark"])["estimate"].mean()
        for system, benchmark, published, tolerance in to_check(profile):
            here = averages[system, benchmark]
            verdict = "reproduced" if abs(here - published) <= tolerance else "not reproduced"
            said = f"{system} on {benchmark}: {here:.1f} here, {published} published: {verdict}"
            console.print(f"{said} (within {tolerance:g} points, as said beforehand)", style="bold", soft_wrap=True)
    pages_written = pages.write_report(run.notebooks, run.report, front, f"QAlign, profile {profile.run.profile}")
    console.print("\n[bold]Open[/]")
    for path in [*pages_written[:1], run.figures, run.results]:
        if path.exists():
            console.print(f"  {_short(path)}", soft_wrap=True)


def to_check(profile: Profile) -> Iterator[tuple[str, str, float, float]]:
    """The published averages that a profile sets out to reproduce: system, benchmark, percent, tolerance in points."""
    from qalign_core.results import published_cells

    for system, entry in profile.systems.items():
        name, _, size = (entry.published or "").rpartition(" ")
        for benchmark, tolerance in profile.evaluation.tolerance.items() if name else ():
            cells = published_cells(benchmark, size).query("language == 'average'").set_index("system")["value"]
            if name in cells:
                yield system, benchmark, cells[name], tolerance


def changes(profile: str) -> Iterator[str]:
    """What a profile's file changes of the one that it extends, key by key."""
    path = params.profile_file(profile)
    said = runs.read_yaml(path)
    if isinstance(said, dict) and (base := said.pop("extends", None)):
        before = params.read_sections(params.profile_file(base, path.parent))
        was, now = (pd.json_normalize(part, sep=".").to_dict("records")[0] for part in (before, said))
        yield f"extends {base}; changed:"
        yield from (f"  {key}: {was.get(key, 'not there')} → {value}" for key, value in now.items())


def dry_run(profile: Profile, run: Run, chosen: list[Path], console: Console) -> None:
    """Print every notebook, stage and prediction with whether it is done, and estimates of cost; nothing is written."""
    listed = []
    for path in chosen:
        why = why_to_do(run, run.notebooks / path.name, notebook_identity(path, profile))
        listed.append((f"notebook   {path.stem}", not why, why))
    for name, done, why in (*listed, *overview(profile, run), *evaluate.external_overview(profile)):
        console.print(f"{'done ' if done else 'to do'}  {name}{f'  ({why})' if why else ''}", soft_wrap=True)
    for system, benchmark, published, tolerance in to_check(profile):
        said = f"{system} on {benchmark}: published {published}; counts as reproduced within {tolerance:g} points"
        console.print(f"check  {said} (docs/numbers.md)", soft_wrap=True)
    problem = plan.slow_bf16(profile)
    try:
        prepare.refuse(profile)
    except DownloadError as error:
        problem = "\n".join(filter(None, (problem, str(error))))
    if problem:
        console.print(f"\nproblem: {escape(problem)}", soft_wrap=True)
    cost.show(profile, run, console)
    if any(name.startswith("notebook") and not done for name, done, _ in listed):
        for sentence in cost.sentences(profile, [path.name[:2] for path in chosen]):
            console.print(sentence, soft_wrap=True)


def write_start_page(profile: Profile, run: Run) -> Path:
    """Write `runs/START.md`, which JupyterLab opens with: `notebooks/START.md` and above it how far this profile is."""
    page = PARAMS_FOLDER.parent / "runs" / "START.md"
    text = (NOTEBOOKS_FOLDER / "START.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!https:|#|\.\./)", "](../notebooks/", text)  # it stands as deep as the notebooks
    paths = notebooks_of(profile)
    done = [p.name[:2] for p in paths if not why_to_do(run, run.notebooks / p.name, notebook_identity(p, profile))]
    said = f"Profile **{profile.run.profile}**: {len(done)} of {len(paths)} chapters are done"
    said += f" ({', '.join(done) or 'none'})."
    if (run.report / "index.html").is_file():
        said += f" Their pages: [report]({os.path.relpath(run.report / 'index.html', page.parent)})."
    title, _, rest = text.partition("\n")
    return runs.write_atomic(page, f"{title}\n\n{said}\n{rest}")


def _short(path: Path) -> str:
    """A path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def leave(code: int) -> NoReturn:
    """End this process; after an interrupt without what Jupyter and zmq have to say of it while Python ends."""
    if code == 130:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
