"""Is this machine ready for a profile? `python -m qalign_core.doctor [PROFILE]` looks, and changes nothing.

It takes ten seconds at most, and begins with the standard library alone: missing packages are a finding, not an error.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable

from qalign_core.checks import machine_checks
from qalign_core.checks.machine_checks import OK, PROBLEM, WARNING, Finding

LIMIT_SECONDS = 8.0  # for the checks; the imports before them take the rest of the ten
SIGNS = {OK: ("✓", "green"), WARNING: ("!", "yellow"), PROBLEM: ("✗", "red")}


def main(arguments: list[str] | None = None) -> int:
    """Print what was found; the exit code is 1 if something was that must be mended first."""
    options = parser().parse_args(arguments)
    begun = time.monotonic()
    findings = [machine_checks.python(), machine_checks.packages()]
    if all(importlib.util.find_spec(name) for name in ("pydantic", "yaml", "datasets", "pandas", "filelock", "psutil")):
        findings += examine(options.profile, options.run_dir)
    else:
        findings += [*machine_checks.fonts(), machine_checks.compilers(False)]
        findings.append(Finding("profile", PROBLEM, "not looked at: packages are missing", "make setup, then again"))
    findings = merged(findings)
    show(options.profile, findings)
    count = {state: sum(finding.state == state for finding in findings) for state in SIGNS}
    counted = [f"{count[s]} {s}{'s' if count[s] > 1 else ''}" for s in (PROBLEM, WARNING) if count[s]]
    print(f"{', '.join(counted) or 'ready'} ({time.monotonic() - begun:.1f} s)")
    return 1 if count[PROBLEM] else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m qalign_core.doctor", description=__doc__)
    found.add_argument("profile", nargs="?", default="mini", help="a name in params/ or a path of a YAML file")
    found.add_argument("--run-dir", metavar="DIR", help="another run folder than runs/PROFILE")
    return found


def examine(name: str, run_dir: str | None = None) -> list[Finding]:
    """What was found about a profile on this machine, in the order of the checks.

    Args:
        name: of a profile, or its path.
        run_dir: another run folder than `runs/<profile>`.
    """
    from qalign_core import params, plan
    from qalign_core.checks import profile_checks

    try:
        profile = params.load(name)
        run = plan.open_run(profile, run_dir, read_only=True)
        checks = profile_checks.checks(profile, run)
    except params.ProfileError as error:
        return [Finding("profile", PROBLEM, str(error), "correct the profile"), *machine_checks.fonts()]
    return run_checks({"fonts": machine_checks.fonts, **checks}, LIMIT_SECONDS)


def run_checks(checks: dict[str, Callable[[], Iterable[Finding]]], seconds: float) -> list[Finding]:
    """Run checks side by side; one that is not done in time, or fails itself, is a finding of its own.

    Args:
        checks: by name.
        seconds: after which no more is waited for.
    """
    results: dict[str, list[Finding]] = {}

    def run(name: str, check: Callable[[], Iterable[Finding]]) -> None:
        try:
            results[name] = list(check())
        except Exception as error:  # whatever it is, the other findings are worth reading
            why = f"the check failed: {type(error).__name__}: {error}"
            results[name] = [Finding(name, WARNING, why[:300], "look at this by hand")]

    threads = [threading.Thread(target=run, args=check, daemon=True) for check in checks.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    findings = []
    for name in checks:
        late = Finding(name, WARNING, f"no answer within {seconds:.0f} s", "try again; is the network or a disk slow?")
        findings += results.get(name, [late])
    return findings


def merged(findings: list[Finding]) -> list[Finding]:
    """Neighbours that say the same become one, named after the first of them."""
    found = []
    for (_, *said), alike in itertools.groupby(findings, lambda f: (f.check.split(":")[0], f.state, f.found, f.remedy)):
        first, *others = [finding.check for finding in alike]
        found.append(Finding(first + (f" and {len(others)} more" if others else ""), *said))
    return found


def show(profile: str, findings: list[Finding]) -> None:
    """Print the findings: a table, or plain lines as long as rich is not installed."""
    if not importlib.util.find_spec("rich"):
        for finding in findings:
            remedy = f"\n    → {finding.remedy}" if finding.remedy else ""
            print(f"{SIGNS[finding.state][0]} {finding.check}: {finding.found}{remedy}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "found, and → what to do", box=None, title=f"profile {profile}", title_justify="left")
    for finding in findings:
        sign, colour = SIGNS[finding.state]
        said = Text(finding.found, overflow="fold")
        if finding.remedy:
            said.append(f"\n→ {finding.remedy}", style=colour)
        table.add_row(Text(sign, style=colour), Text(finding.check, overflow="fold"), said)
    Console(highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
