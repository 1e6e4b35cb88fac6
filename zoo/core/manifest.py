"""manifest.json: what a run was made with and what it cost, an entry a session.

A session is a start or a resumption.  Its entry is written when it begins, again after each epoch and when it
ends, each time whole or not at all; one without `ended` was killed.

    seed        every random choice of the run follows from it
    sessions    began, ended, outcome ("finished", "interrupted", "stopped: why"), command, versions, git,
                data, hardware, device, threads, workers, launch; seconds, images, images_per_s,
                peak_memory_bytes, peak_gpu_memory_bytes
    total       the same figures over all sessions: sums, and the largest of the peaks

images: those trained on, each as often as it was.  images_per_s: over all seconds, validation among them.
launch: what names the torchrun that started it, by which a restart finds its run; null without one.
git: revision and dirty of the checkout that zoo is imported from; absent where that is none.
data: of each side the number of images, files and bytes, and a SHA-256 over the images' names and the names,
sizes and SHA-256 of their files, in order.  All bytes are read for it.  Opening the data has just read and
decoded them, which takes many times as long: of CamVid's 468 images and masks 0.76 s, the hash 0.07 s.
"""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import TracebackType

import torch

import zoo
from zoo.core import content
from zoo.core.config import TrainConfig
from zoo.core.files import read_json, write_json
from zoo.core.ranks import launch
from zoo.errors import InputError

FILE = "manifest.json"
PACKAGES = {  # the name it is imported by: the one it is installed by
    "zoo": "zoo-segmentation",
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "cv2": "opencv-python",
}
STOPPED_BY_USER = ("Interrupted", "KeyboardInterrupt")


class Session:
    """The current session's entry in OUT/manifest.json; a context manager around the training.

    out: the run folder; None for a process that leaves the writing to the first.
    contents: of the training and the validation data.
    images: trained on so far, which the trainer counts.  `write` brings the file up to date.
    """

    def __init__(
        self,
        out: Path | None,
        config: TrainConfig,
        contents: Sequence[content.Content],
        device: torch.device,
        warn: Callable[[str], None],
    ):
        self.out, self.config, self.contents, self.device, self.warn = out, config, contents, device, warn
        self.images = 0
        self.entry: dict = {}
        self.earlier: list[dict] = []

    def __enter__(self) -> "Session":
        self.started = time.monotonic()
        if self.out is None:
            return self
        self.earlier = self._earlier(self.out / FILE)
        self.entry = {
            "began": _now(),
            "ended": None,
            "outcome": None,
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "versions": versions(),
            "git": revision(Path(zoo.__file__).parent),
            "data": {side: c.summary() for side, c in zip(content.SIDES, self.contents, strict=True)},
            "hardware": hardware(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "workers": self.config.workers,
            "launch": launch(),
        }
        if self.entry["git"] is None:
            del self.entry["git"]
        self.write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.entry:
            self.entry |= {"ended": _now(), "outcome": _outcome(error)}
        try:
            self.write()
        except InputError:
            if error is None:
                raise

    def write(self) -> None:
        """Bring the file up to date, once the session has begun.  Raises InputError."""
        if self.out is None or not self.entry:
            return
        seconds = time.monotonic() - self.started
        self.entry |= _figures(seconds, self.images, peak_memory(), peak_gpu_memory(self.device))
        sessions = [*self.earlier, self.entry]
        held = {"seed": self.config.seed, "sessions": sessions, "total": total(sessions)}
        write_json(self.out / FILE, held)

    def _earlier(self, path: Path) -> list[dict]:
        """The entries of earlier sessions; a file that holds none is put aside, not overwritten."""
        if not path.exists():
            return []
        with suppress(InputError):
            held = read_json(path)
            sessions = held.get("sessions") if isinstance(held, dict) else None
            if isinstance(sessions, list) and all(isinstance(entry, dict) for entry in sessions):
                return sessions
        aside = path.with_suffix(".damaged.json")
        with suppress(OSError):
            os.replace(path, aside)
        self.warn(f"{path}: cannot be read as the record of a run; put aside as {aside.name}")
        return []


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if type(error).__name__ in STOPPED_BY_USER:
        return "interrupted"
    return f"stopped: {(str(error).splitlines() or [''])[0] or type(error).__name__}"


# ---------------------------------------------------------------- what it was made with


def versions() -> dict[str, str | None]:
    """Of Python and the packages that decide the numbers; None for one that is not installed, only there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def revision(folder: Path) -> dict[str, object] | None:
    """Git's revision of `folder`, and whether tracked files differ from it; None if it is not tracked."""

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return ran.stdout.strip()

    try:
        if not git("ls-files", "--", "."):  # a package that lies in the folder of another project
            return None
        return {
            "revision": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, object]:
    """System, processor, cores that this process may use, memory, and the names of the GPUs."""
    affinity = getattr(os, "sched_getaffinity", None)
    memory = None
    with suppress(ValueError, OSError, AttributeError):  # not every system has these words
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_bytes": memory,
        "gpus": [torch.cuda.get_device_name(i) for i in range(gpus)],
    }


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---------------------------------------------------------------- what it cost


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_gpu_memory(device: torch.device) -> int | None:
    """The most memory that tensors have held on the device so far, in bytes; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _figures(seconds: float, images: int, peak: int | None, gpu_peak: int | None) -> dict[str, object]:
    return {
        "seconds": round(seconds, 3),
        "images": images,
        "images_per_s": round(images / seconds, 3) if seconds > 0 else None,
        "peak_memory_bytes": peak,
        "peak_gpu_memory_bytes": gpu_peak,
    }


def total(sessions: Iterable[dict]) -> dict[str, object]:
    """The figures of all sessions: seconds and images summed, of the peaks the largest."""
    sessions = list(sessions)

    def known(key: str) -> list:
        return [entry[key] for entry in sessions if entry.get(key) is not None]

    return _figures(
        sum(known("seconds")),
        sum(known("images")),
        max(known("peak_memory_bytes"), default=None),
        max(known("peak_gpu_memory_bytes"), default=None),
    )
