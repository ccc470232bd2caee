"""All notebooks of a profile, in order, by papermill: `python -m qalign_core.reproduce PROFILE`."""

from __future__ import annotations

import argparse
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from qalign_core import launch, plan, runs
from qalign_core.data import offline
from qalign_core.data.downloads import DownloadError, is_offline
from qalign_core.data.rows import BadRow
from qalign_core.jobs import overview
from qalign_core.jobs.confined import confined
from qalign_core.jobs.executed import is_executed, notebook_identity, remember, why_to_do
from qalign_core.jobs.machines import machines
from qalign_core.jobs.progress import clock, describe, latest, share_done
from qalign_core.params import PARAMS_FOLDER, Profile, ProfileError, load
from qalign_core.runs import Run
from qalign_core.scores import brought
from qalign_core.training import cost

NOTEBOOKS_FOLDER = PARAMS_FOLDER.parent / "notebooks"


def main(arguments: list[str] | None = None) -> int:
    """Run a profile's notebooks; the exit code is 0 only if every one of them succeeded."""
    options = parser().parse_args(arguments)
    console = Console(highlight=False)
    try:
        profile = load(options.profile)
        check_files(profile)
        chosen = select(profile, options.only, options.start)
        run = plan.open_run(profile, options.run_dir, read_only=options.dry_run)
        if options.dry_run:
            dry_run(profile, run, chosen, console)
            return 0
        check_brought(profile, chosen)
        refuse_offline(profile, run, chosen)
        with FileLock(run.folder / ".lock", timeout=0), confined(run):
            return reproduce(profile, run, chosen, console)
    except Timeout:
        refuse(console, f"another process is reproducing into {run.folder}: wait for it, or stop it")
    except (ProfileError, BadRow, OSError) as error:  # OSError: no permission, no space, a file for a folder
        refuse(console, str(error))
    except KeyboardInterrupt:
        console.print("\ninterrupted; what is finished is kept. Run the same command to go on.")
        return 130
    return 2


def check_files(profile: Profile) -> None:
    """Look before anything runs for the files that only training reads, hours later.

    Raises:
        ProfileError: when the DeepSpeed configuration or the host file is not there, or of no use.
    """
    machines(profile)
    try:
        if plan.stages(profile):
            plan.deepspeed_config(profile)
    except ProfileError:
        raise
    except ValueError as error:  # not JSON
        raise ProfileError(f"training.deepspeed: {error}") from None


def check_brought(profile: Profile, chosen: list[Path]) -> None:
    """Look before anything is trained for the answers made elsewhere that chapter 4 will score.

    Raises:
        ProfileError: when some are not there, naming the system and the first file.
    """
    if any(path.name.startswith("04") for path in chosen):
        for title, there, why in brought.overview(profile):
            if not there:
                raise ProfileError(f"{' '.join(title.split())}, but {why}")


def refuse_offline(profile: Profile, run: Run, chosen: list[Path]) -> None:
    """Say once, before anything runs, what would have to be fetched where nothing may be.

    Raises:
        DownloadError: see `offline.refuse`.
    """
    if not is_offline():
        return
    ahead = [p for p in chosen if not is_executed(run, run.notebooks / p.name, notebook_identity(p, profile))]
    undone = any(not done for _, done, _ in overview.overview(profile, run))
    numbers = {path.name[:2] for path in ahead}
    offline.refuse(profile, data="01" in numbers, model=undone and bool(numbers))


def refuse(console: Console, reason: str) -> None:
    """Print why nothing was run, or not everything; brackets in it are text, not markup."""
    console.print(f"[bold red]error[/] {escape(reason)}", soft_wrap=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m qalign_core.reproduce", description=__doc__)
    found.add_argument("profile", help="a name in params/ (mini, llama2-7b, ...) or a path of a YAML file")
    found.add_argument("--only", nargs="+", metavar="NN", help="run only these notebooks, such as: 04 05")
    found.add_argument("--from", dest="start", metavar="NN", help="run this notebook and those after it")
    found.add_argument("--dry-run", action="store_true", help="print what is done and what is to do, run nothing")
    found.add_argument("--run-dir", metavar="DIR", type=run_folder, help="another run folder than runs/PROFILE")
    return found


def run_folder(path: str) -> str:
    """The path of `--run-dir`; an empty one, as of a shell variable that is not set, would mean runs/PROFILE."""
    if not path.strip():
        raise argparse.ArgumentTypeError("is empty; name a folder, or leave the option out for runs/PROFILE")
    return path


def notebooks_of(profile: Profile) -> list[Path]:
    """The notebooks a profile needs; one without anything to train leaves out the training chapters and ablations, one
    whose systems have a single stage chapter 2."""
    every = sorted(NOTEBOOKS_FOLDER.glob("[0-9][0-9]_*.ipynb"))
    without = ("02", "03", "06") if not plan.stages(profile) else () if profile.first_stage() else ("02",)
    return [path for path in every if path.name[:2] not in without]


def select(profile: Profile, only: list[str] | None, start: str | None) -> list[Path]:
    """The notebooks that were asked for, in order.

    Raises:
        ProfileError: for a number that no notebook of the profile has, or when nothing is left.
    """
    every = notebooks_of(profile)
    known = [path.name[:2] for path in every]
    for number in [*(only or []), *([start] if start else [])]:
        if number not in known:
            raise ProfileError(f"no notebook {number!r} for profile {profile.run.profile}; there are {' '.join(known)}")
    chosen = [p for p in every if (not only or p.name[:2] in only) and (not start or p.name[:2] >= start)]
    if not chosen:
        raise ProfileError(f"no notebook is left: --only {' '.join(only or [])} are all before --from {start}")
    return chosen


# ------------------------------------------------------------------------------------------------- running


def reproduce(profile: Profile, run: Run, chosen: list[Path], console: Console) -> int:
    """Execute the chosen notebooks, then print the tables and where everything is."""
    begun = time.monotonic()
    console.print(f"[bold]{profile.run.profile}[/] → {_short(run.folder)}")
    for path in chosen:
        identity = notebook_identity(path, profile)
        output = run.notebooks / path.name
        if is_executed(run, output, identity):
            console.print(f"  [green]✓[/] {path.stem:<32} already done")
            continue
        started = time.monotonic()
        problem = execute(path, output, profile, run, console)
        if problem:
            console.print(f"  [red]✗[/] {path.stem:<32} failed after {clock(time.monotonic() - started)}\n")
            console.print(problem, markup=False, soft_wrap=True)
            console.print(f"\nThe notebook up to its failed cell: {_short(unfinished(output))}", soft_wrap=True)
            return 1
        remember(run, output, identity)
        console.print(f"  [green]✓[/] {path.stem:<32} {clock(time.monotonic() - started)}")
    summary(run, console)
    console.print(f"\ndone in {clock(time.monotonic() - begun)}")
    return 0


def execute(path: Path, output: Path, profile: Profile, run: Run, console: Console) -> str | None:
    """Execute one notebook by papermill in a kernel of its own.

    What was executed before stays until this one has ended well.

    Returns:
        None, or the failed cell's traceback (or how the kernel died).
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    attempt = unfinished(output)
    attempt.parent.mkdir(parents=True, exist_ok=True)
    os.environ[plan.RUN_FOLDER] = str(run.folder)
    if not launch.has_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it looked for a GPU in vain
    try:
        with watch(path.stem, run, console), TemporaryDirectory(prefix="qalign-") as sockets:
            papermill.execute_notebook(
                path,
                attempt,
                parameters=profile.model_dump(mode="json"),
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
                cwd=NOTEBOOKS_FOLDER,
                # The kernel speaks through sockets in a folder of the user's own, not through open ports.
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
    except PapermillExecutionError as error:
        return explain(error.ename, error.evalue, error.traceback)
    except DeadKernelError:
        return "The notebook's kernel died (out of memory?). Run the same command to go on from what is finished."
    finally:
        os.environ.pop(plan.RUN_FOLDER, None)
    os.replace(attempt, output)
    return None


def unfinished(output: Path) -> Path:
    """Where a notebook stands while it is executed, and stays if it fails."""
    return output.parent / "unfinished" / output.name


# Errors that were written for the person who reads them: where in the code they were raised does not matter.
PLAIN_ERRORS: tuple[str, ...] = (
    *("JobError", "ProfileError", "BadRow", "DownloadError"),
    *("FileNotFoundError", "FileExistsError", "NotADirectoryError", "PermissionError"),
)


def explain(name: str, message: str, traceback: list[str]) -> str:
    """What to print of a failed cell: the message alone if it says all, else the traceback, without colours."""
    if name in PLAIN_ERRORS:
        return f"{name}: {message}"
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback))


@contextmanager
def watch(name: str, run: Run, console: Console) -> Iterator[None]:
    """While a notebook runs, show its name and, when it trains or generates, a bar with loss, speed and time left."""
    stopped = threading.Event()
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[name]:<32}"),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def follow() -> None:
        line = bar.add_task("", name=name, total=None)
        said = time.monotonic()
        while not stopped.wait(0.5):
            job, state = running_job(run)
            share = share_done(state) if state else None
            text = escape(f"{job}: {describe(state)}") if job else ""
            bar.update(line, description=text, total=None if share is None else 1.0, completed=share or 0)
            if not console.is_terminal and job and time.monotonic() - said > 30:
                said = time.monotonic()
                console.print(f"    {text}", soft_wrap=True)

    with bar:
        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            stopped.set()
            follower.join()


def running_job(run: Run) -> tuple[str | None, dict[str, Any] | None]:
    """The job a notebook of this run has started, by its folder's name, and the last line of its progress."""
    try:
        current = runs.read_object(run.folder / launch.CURRENT)
        folder, since = (run.folder / current["job"]).parent, float(current["since"])
        name = folder.relative_to(run.folder).as_posix().split("/base", 1)[-1].strip("/") or "base"
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # nothing runs, or the file is damaged
        return None, None
    return name, latest(folder / "progress.jsonl", since=since)


# ------------------------------------------------------------------------------------------------- what is shown


def summary(run: Run, console: Console) -> None:
    """Print Tables 2 and 3, and the paths of what a person may want to open."""
    from qalign_core import report
    from qalign_core.scores import primary
    from qalign_core.shown import front_page, pages

    heading, front = "QAlign", ""
    if (run.results / "accuracy.csv").is_file():
        results = report.read_results(run.results)
        tables = report.run_tables(results)
        heading, front = front_page.heading(results), front_page.front(run, results, tables)
        for table in tables:
            if table.name.startswith(("table-2", "table-3", "table-accuracy")):
                console.print()
                report.print_table(table, console)
        for remark in report.remarks(results.tables["accuracy"], results.tables.get("floor"), results.run["scorer"]):
            console.print(remark, style="bold", markup=False, soft_wrap=True)
        if "primary" in results.tables:
            for sentence in primary.sentences(results.tables["primary"]):
                console.print(sentence, markup=False, soft_wrap=True)
    pages_written = pages.write_report(run.notebooks, run.report, front, heading)
    console.print("\n[bold]Open[/]")
    for path in [*pages_written[:1], run.figures, run.results]:
        if path.exists():
            console.print(f"  {_short(path)}", soft_wrap=True)


def dry_run(profile: Profile, run: Run, chosen: list[Path], console: Console) -> None:
    """Print every notebook, stage and prediction with whether it is done, and estimates of cost; nothing is written."""
    listed = []
    for path in chosen:
        why = why_to_do(run, run.notebooks / path.name, notebook_identity(path, profile))
        listed.append((f"notebook   {path.stem}", not why, why))
    for name, done, why in (*listed, *overview.overview(profile, run), *brought.overview(profile)):
        console.print(f"{'done ' if done else 'to do'}  {name}{f'  ({why})' if why else ''}", soft_wrap=True)
    try:
        offline.refuse(profile)
    except DownloadError as error:
        console.print(f"\n{escape(str(error))}", soft_wrap=True)
    cost.show(profile, run, console)


def _short(path: Path) -> str:
    """A path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
