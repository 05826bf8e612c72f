"""`sparsify doctor`"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import EntryPoint, PackageNotFoundError, requires, version
from typing import Any

import torch
from rich.table import Table

from sparsify._version import __version__
from sparsify.cli.common import AsJson, guarded, print_json
from sparsify.cli.console import out
from sparsify.errors import SparsifyError
from sparsify.escaping import one_line
from sparsify.spec import load_plugin, plugins

DISTRIBUTION = "sparsify-torch"
FOR = {
    "cli": "the commands",
    "transformers": "models of transformers, its Trainer",
    "accelerate": "loops with Accelerate",
    "lightning": "PyTorch Lightning",
    "report": "reports with pictures",
    "storage": "packed files (`pack`, `unpack`)",
    "demo": "`sparsify demo`",
    "train": "`sparsify train`",
    "export": "ONNX (`export`, `benchmark --engine onnxruntime`)",
}
"""What each extra is for; those that are for our own work are left out."""

REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?\s*(?:\(?([^;)]*)\)?)?\s*(?:;\s*(.*))?$")
EXTRA = re.compile(r"extra\s*==\s*[\"']([^\"']+)[\"']")


@guarded
def doctor(as_json: AsJson = False) -> None:
    """Say which versions are installed, and what is missing for what."""
    facts = {"sparsify": __version__, **machine()}
    extras = [extra(name) for name in FOR]
    found = [plugin(entry) for entry in plugins()]
    if as_json:
        print_json({**facts, "extras": extras, "plugins": found})
        return
    console = out()
    console.print("\n".join(f"{key:<12} {value}" for key, value in facts.items()), markup=False)
    table = Table("extra", "for", "installed", "missing", title_justify="left")
    for each in extras:
        table.add_row(each["name"], each["for"], _listed(each["installed"]), _listed(each["missing"]) or "nothing")
    console.print(table)
    for each in found:
        how = each["problem"] or "loads"
        console.print(f"plug-in {each['name']} ({each['module']}, {each['distribution']}): {how}", markup=False)
    if not found:
        console.print("no plug-ins are installed")
    lacking = [each["name"] for each in extras if each["missing"]]
    if lacking:
        console.print(f"To install what is missing: pip install '{DISTRIBUTION}[{','.join(lacking)}]'", markup=False)


def plugin(entry: EntryPoint) -> dict[str, str]:
    """Return what a plug-in is, where it comes from, and why it does not load; the last is empty where it does."""
    problem = ""
    try:
        load_plugin(entry)
    except SparsifyError as error:
        problem = one_line(str(error))
    owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
    return {"name": entry.name, "module": entry.value, "distribution": owner, "problem": problem}


def machine() -> dict[str, str]:
    """Return the versions of Python and torch, and what torch computes on."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    where = f"{cards} CUDA devices" if cards else "CPU only"
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    return {
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "torch": f"{torch.__version__}, {where}, {torch.get_num_threads()} threads",
        "engine": _engine(),
        "models": "from folders only (HF_HUB_OFFLINE is set)" if offline else "from folders and the hub",
    }


def _engine() -> str:
    """Return whether the sparse engine works, and with which instructions."""
    from sparsify.engine.library import instructions, missing

    reason = missing()
    return f"sparse products with {instructions()}" if reason is None else f"none: {reason}"


def extra(name: str) -> dict[str, Any]:
    """Return what an extra needs: what is installed of it, with versions, and what is missing or too old."""
    installed: dict[str, str] = {}
    missing: dict[str, str] = {}
    wants = needs(name)
    if not wants:
        missing["this extra"] = "(the installed sparsify-torch is older)"
    for package, wanted in sorted(wants.items()):
        there = _version(package)
        if there is None:
            missing[package] = wanted
        elif _older(there, wanted):
            missing[package] = f"{wanted}, here {there}"
        else:
            installed[package] = there
    return {"name": name, "for": FOR[name], "installed": installed, "missing": missing}


def needs(name: str) -> dict[str, str]:
    """Return the packages of an extra, with the versions that are wanted; those of extras within it, too."""
    found: dict[str, str] = {}
    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return {}
    for line in lines:
        match = REQUIREMENT.match(line)
        if match is None:
            continue
        package, inner, wanted, marker = match.groups()
        if name not in EXTRA.findall(marker or ""):
            continue
        if package.lower().replace("_", "-") == DISTRIBUTION:
            for each in (inner or "").split(","):
                found |= needs(each.strip()) if each.strip() != name else {}
        else:
            found[package] = (wanted or "").strip()
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _older(there: str, wanted: str) -> bool:
    """Whether a version lies below the lower bound; other bounds are not set by us."""
    bound = re.search(r">=\s*([0-9.]+)", wanted)
    return bound is not None and _numbers(there) < _numbers(bound[1])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text.split("+")[0])[:3]]


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {text}".strip() for name, text in packages.items())
