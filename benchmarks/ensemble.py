"""What an ensemble takes in memory and time as it grows, beside the plain way, and whether it says the same.

    python benchmarks/ensemble.py [--models 1 2 4 8] [--side 2048] [--size 512] [--classes 29]

Networks of four architectures with random weights, whose logits have a deviation of 4, and a drawn hand
radiograph.  Each figure is of a process of its own, MiB at its resident peak (VmHWM): one that loads each
model and does its forward pass at its own input size, one model after another; one that does all that
`infer.py` does, mask and overlay written; and the plain way, which holds all logits at the image's size and
takes the float64 mean of their probabilities.  Another compares the two.  Exit status 1 where a promise is
broken.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from memory import resident
from torch import Tensor

import zoo
from zoo.core import checkpoint, phantom
from zoo.core.checkpoint import Checkpoint
from zoo.core.config import Preprocess
from zoo.core.decide import decide
from zoo.core.ensemble import Ensemble
from zoo.core.images import read_image, resize_image
from zoo.core.inference import Item, Writer, predict_all
from zoo.core.masks import Labels, palette
from zoo.core.pictures import write_png
from zoo.core.predictor import Predictor

KINDS = (
    ("unetpp", {}),
    ("unet_halved", {"encoder": "resnet34"}),
    ("deeplabv3plus", {"encoder": "resnet50"}),
    ("segformer_b0", {}),
)
LIMIT = 256  # MiB above one model's weights and forward pass
MACHINE = ("cpu", "off")


def write_models(folder: Path, count: int, size: int, labels: Labels, image: np.ndarray) -> list[Path]:
    """Checkpoints of random networks at three sizes; each class's logits have mean -1 and deviation 4."""
    paths = []
    for i in range(count):
        arch, words = KINDS[i % len(KINDS)]
        torch.manual_seed(i)
        build = {"num_classes": labels.num_classes, "in_channels": 1, **words}
        model = zoo.build(arch, **build).eval()
        side = (size, size * 3 // 4, size * 5 // 4)[i % 3]
        preprocess = Preprocess(1, (0.2,), (0.2,), (side, side))
        with torch.no_grad():
            logits = model(preprocess.to_tensor(resize_image(image, (side, side)))[None])[0]
            deviation, mean = torch.std_mean(logits, (1, 2))
            heads = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
            head = [m for m in heads if m.out_channels == labels.num_classes and m.bias is not None][-1]
            head.weight.mul_((4 / deviation)[:, None, None, None])
            head.bias.sub_(mean).mul_(4 / deviation).sub_(1)
        paths.append(folder / f"{i}_{arch}.pt")
        checkpoint.write(paths[-1], Checkpoint(arch, build, labels, preprocess, model.state_dict(), {}))
    return paths


def plain(paths: list[Path], image: np.ndarray) -> Tensor:
    """The float64 mean (K, H, W) of probabilities whose logits are all held at the image's size."""
    held = []
    for path in paths:
        logits = Predictor.from_checkpoint(path, *MACHINE).whole(image)
        held.append(F.interpolate(logits[None], image.shape[:2], mode="bilinear", align_corners=False)[0])
    mean = torch.zeros(held[0].shape, dtype=torch.float64)
    for logits in held:
        for k, plane in enumerate(logits):
            mean[k] += plane.double().sigmoid() / len(held)
    return mean


def bits(planes: Tensor) -> np.ndarray:
    """Where a class is above 0.5, as bits."""
    mask = np.zeros(planes.shape[1:], np.int64)
    for k, plane in enumerate(planes):
        mask |= (plane > 0.5).numpy().astype(np.int64) << k
    return mask


@torch.no_grad()
def measure(job: str, folder: Path, paths: list[Path]) -> dict[str, float]:
    """MiB at the peak of this process and seconds, or how far two ways differ."""
    item = Item(folder / "image.png", "image", "image", "image.png")
    began = time.perf_counter()
    match job:
        case "one":
            image = read_image(item.path, 1)
            for path in paths:
                Predictor.from_checkpoint(path, *MACHINE).whole(image)
        case "ensemble":
            joined = Ensemble(paths, machine=MACHINE)
            with Writer(folder / "out", joined.labels) as writer:
                predict_all(joined, [item], writer, refuse)
        case "plain":
            bits(plain(paths, read_image(item.path, 1)))
        case _:
            image = read_image(item.path, 1)
            mean, joined = plain(paths, image), Ensemble(paths, machine=MACHINE)
            truth, differ, equal = bits(mean), 0.0, 0
            for top, band in joined.probabilities(image):
                rows = slice(top, top + band.shape[1])
                differ = max(differ, (band.double() - mean[:, rows]).abs().max().item())
                equal += int((decide(band, joined.labels).numpy() == truth[rows]).sum())
            return {"differ": differ, "equal": equal / truth.size}
    return {"peak": resident("VmHWM"), "seconds": time.perf_counter() - began}


def refuse(item: Item, failure: str) -> None:
    """An image that could not be predicted ends the benchmark."""
    if failure:
        raise SystemExit(failure)


def apart(job: str, folder: Path, count: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    words = [sys.executable, __file__, "--job", job, "--folder", str(folder), "--models", str(count)]
    ran = subprocess.run(words, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def main(counts: list[int], side: int, size: int, classes: int) -> None:
    """Print the table."""
    labels = Labels("multilabel", tuple(f"class {k}" for k in range(classes)), palette(classes))
    image = phantom.draw(0, 0, side).image
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "image.png", image)
        write_models(folder, max(counts), size, labels, image)
        print(f"{classes} classes at {side}x{side}, models at {size}, {size * 3 // 4} and {size * 5 // 4}\n")
        print("| models | one model, MiB | ensemble | above it | plain way | above it | seconds, plain "
              "| largest difference | masks equal |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for count in counts:
            one, ours, theirs = (apart(job, folder, count) for job in ("one", "ensemble", "plain"))
            same = apart("compare", folder, count)
            above, plainly = (way["peak"] - one["peak"] for way in (ours, theirs))
            cells = [f"{count}", f"{one['peak']:,.0f}", f"{ours['peak']:,.0f}", f"{above:+,.0f}",
                     f"{theirs['peak']:,.0f}", f"{plainly:+,.0f}",
                     f"{ours['seconds']:.1f}, {theirs['seconds']:.1f}",
                     f"{same['differ']:.1e}", f"{100 * same['equal']:.5f} %"]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)
            if above > LIMIT or same["differ"] > 1e-3 or same["equal"] < 0.99999:
                raise SystemExit(f"over {LIMIT} MiB, 1e-3 or 0.001 % of pixels")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--models", type=int, nargs="+", default=[1, 2, 4, 8])
    p.add_argument("--side", type=int, default=2048)
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--classes", type=int, default=29)
    p.add_argument("--job", help=argparse.SUPPRESS)
    p.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.job:
        files = sorted(args.folder.glob("*.pt"))[: args.models[0]]
        print(json.dumps(measure(args.job, args.folder, files)))
    else:
        main(args.models, args.side, args.size, args.classes)
