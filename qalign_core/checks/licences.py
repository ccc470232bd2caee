"""The licences of what `requirements.txt` installs, as each package states it.

`make licences` writes the list that stands beside LICENSE.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from qalign_core.checks.machine_checks import REQUIREMENTS, required

# What packages write, in lower case, and the SPDX identifier they mean.
SPDX = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "2-clause bsd": "BSD-2-Clause",
    "bsd 2-clause license": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd": "BSD",  # of two or three clauses: they do not say
    "bsd license": "BSD",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
}
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python", "ISC"),
    *("LLVM-exception", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
}
# Licences that ask for more than a notice, and what they ask.
OTHERS = {"MPL-2.0": "**weak copyleft**: its own files, if changed and passed on, stay under MPL-2.0"}
HEAD = """# Licences of the packages used

What `requirements.txt` installs, as each package's own metadata states it; the libraries inside a wheel are listed in
the package itself. This repository contains none of them. `make licences` writes this list anew.

On a machine with CUDA torch also brings NVIDIA's libraries (`nvidia-*`), which are **not free software**: they come
under NVIDIA's own licence agreement.
"""


def identifier(text: str) -> str | None:
    """The SPDX expression a package's words mean; None for words that are not known to mean one."""
    expression = SPDX.get(text.strip().lower(), text.strip())
    return expression if set() < names(expression) <= PERMISSIVE | set(OTHERS) else None


def names(expression: str) -> set[str]:
    """The licences and exceptions that an SPDX expression names."""
    return set(re.split(r"\s+(?:AND|OR|WITH)\s+|[()]", expression)) - {""}


def licence(package: str) -> str:
    """A package's licence as an SPDX expression: its own, or what its licence field or classifier means.

    Raises:
        ValueError: for a licence that nobody has looked at yet.
    """
    found = metadata.metadata(package)
    own, text = (found[key].strip() if key in found else "" for key in ("License-Expression", "License"))
    classifiers = [c.rpartition(" :: ")[2] for c in found.get_all("Classifier", []) if c.startswith("License :: ")]
    stated = [own, text, text.split("\n")[0], *classifiers]
    known = [expression for words in stated if words and (expression := identifier(words))]
    if (own and not identifier(own)) or not known:
        said = " / ".join(words[:60] for words in stated if words)
        raise ValueError(
            f"{package}: what does its licence ask for? It says {said!r}; add it to qalign_core/checks/licences.py"
        )
    return known[0]


def table(requirements: Path = REQUIREMENTS) -> str:
    """The list in Markdown: a line a package, with what a licence asks for that is not permissive.

    Raises:
        ValueError: for a package that is not installed in the stated version, or an unknown licence.
    """
    lines = [HEAD, "| package | version | licence | asks for more than a notice |", "|---|---|---|---|"]
    for package, version in required(requirements).items():
        check_installed(package, version)
        expression = licence(package)
        more = "; ".join(OTHERS[name] for name in sorted(names(expression) & OTHERS.keys()))
        lines.append(f"| {package} | {version} | {expression} | {more} |")
    return "\n".join(lines) + "\n"


def check_installed(package: str, version: str) -> None:
    """Refuse a package that is not here in just this version: another one may have another licence.

    Raises:
        ValueError: saying what is here.
    """
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        installed = "not installed"
    if installed.split("+")[0] != version:  # torch says +cpu or +cu130, of the same version
        raise ValueError(f"{package}: {version} is required, but it is {installed} here; run `make setup`")


if __name__ == "__main__":
    try:
        print(table(), end="")
    except ValueError as error:
        sys.exit(str(error))
