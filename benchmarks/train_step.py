"""A training step of each architecture beside the same graph in a plain loop.

    python benchmarks/train_step.py [NAME …] [--size 256] [--batch 2] [--pairs 7] [--ways WAY …]

Ours is `Trainer.step` as train.py runs it: uint8 image and mask to the device, normalising, memory format,
forward, cross-entropy, backward, the gradient's norm, SGD with momentum.  Theirs is the plain loop: forward,
`F.cross_entropy`, backward, SGD with momentum, on a float image and a target that lie ready, in PyTorch's
default memory format and float32.  Both hold the same weights, whose logits are compared first.  Theirs is

    unet            this zoo's own, for no library has it
    unet_halved, unetpp        segmentation_models_pytorch
    fcn                        torchvision
    pspnet, deeplabv3plus      torchvision's dilated ResNet under our head, for the libraries' heads differ
    hrnet_ocr                  timm's HRNet under our head, in the order that the paper's code has
    segformer_b0               transformers, its logits enlarged

Theirs and each way of ours take turns, so that other work on the machine slows both: "faster" is the median
of the ratios.  Memory is the peak of a step above what lies in memory between two steps, each in a process of
its own, by Linux's word; on a GPU by torch's.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import memory
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor, nn

import zoo
from zoo.core.config import TrainConfig
from zoo.core.display import Display
from zoo.core.trainer import Trainer
from zoo.registry import legal_size

CLASSES = 21
NETWORKS: dict[str, dict] = {
    "unet": {"in_channels": 3},
    "unet_halved": {"encoder": "resnet34"},
    "unetpp": {"encoder": "resnet34"},
    "fcn": {"encoder": "resnet50"},
    "pspnet": {"encoder": "resnet50", "dilate_first": False},
    "deeplabv3plus": {"encoder": "resnet50"},
    "hrnet_ocr": {"encoder": "hrnet_w18"},
    "segformer_b0": {},
}
WAYS: dict[str, dict] = {
    "float32": {},
    "bf16": {"amp": "bf16"},
    "float32, --grad-checkpoint": {"grad_checkpoint": True},
    "bf16, --grad-checkpoint": {"amp": "bf16", "grad_checkpoint": True},
}
WAYS |= {"float32, --compile": {"compile": True}, "bf16, --compile": {"amp": "bf16", "compile": True}}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# ---------------------------------------------------------------------- theirs


class Maps(nn.Module):
    """A library's trunk as an encoder of ours: calls `run`, which gives the maps, finest first."""

    def __init__(self, trunk: nn.Module, run: Callable[[nn.Module, Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.trunk, self.run = trunk, run

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the maps."""
        return self.run(self.trunk, x)


class Transformers(nn.Module):
    """transformers' SegFormer-B0 with its logits at the image's size."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation, logging

        logging.disable_progress_bar()
        self.network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K, H, W)."""
        return F.interpolate(self.network(x).logits, size=x.shape[-2:], mode="bilinear")


def resnet_maps(trunk: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """torchvision's."""
    x = trunk.relu(trunk.bn1(trunk.conv1(x)))
    maps = [x]
    x = trunk.maxpool(x)
    for layer in (trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4):
        maps.append(x := layer(x))
    return tuple(maps)


def hrnet_maps(trunk: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """timm's."""
    x = trunk.act1(trunk.bn1(trunk.conv1(x)))
    return tuple(trunk.stages(trunk.act2(trunk.bn2(trunk.conv2(x)))))


def trunk_of(name: str) -> Maps:
    """The library's trunk below our head."""
    if name == "hrnet_ocr":
        import timm

        trunk = timm.create_model("hrnet_w18")
        for module in trunk.modules():
            if isinstance(module, nn.Upsample):
                module.mode = "bilinear"  # as the authors have it where they segment
                module.align_corners = False
        return Maps(trunk, hrnet_maps)
    import torchvision

    dilated = [False, name == "pspnet", True]
    return Maps(torchvision.models.resnet50(replace_stride_with_dilation=dilated), resnet_maps)


def theirs_and_ours(name: str) -> tuple[nn.Module, nn.Module]:
    """The library's network, and ours with its weights."""
    torch.manual_seed(0)
    ours = zoo.build(name, CLASSES, **NETWORKS[name])
    if name == "unet":
        return zoo_copy(ours, name), ours
    if name in ("unet_halved", "unetpp"):
        import segmentation_models_pytorch as smp

        options = {"decoder_channels": ours.decoder_channels} if name == "unet_halved" else {}
        kind = smp.Unet if name == "unet_halved" else smp.UnetPlusPlus
        theirs: nn.Module = kind("resnet34", encoder_weights=None, classes=CLASSES, **options)
    elif name == "fcn":
        import torchvision

        theirs = torchvision.models.segmentation.fcn_resnet50(
            weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
        )
    elif name == "segformer_b0":
        theirs = Transformers()
    else:
        theirs = zoo_copy(ours, name)
        theirs.encoder = trunk_of(name)
        state = theirs.encoder.trunk.state_dict()
        ours.encoder.load_state_dict({key: state[key] for key in ours.encoder.state_dict()})
        for part in ("fc", "classifier", "incre_modules", "downsamp_modules", "final_layer"):
            if hasattr(theirs.encoder.trunk, part):
                setattr(theirs.encoder.trunk, part, nn.Identity())
        return theirs, ours
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        if isinstance(theirs, Transformers):
            theirs.network.save_pretrained(folder)
        else:
            path = Path(folder) / "theirs.pth"
            torch.save(theirs.state_dict(), path)
        zoo.weights.load(ours, path, say=lambda line: None)
    return theirs, ours


def zoo_copy(ours: nn.Module, name: str) -> nn.Module:
    """Another of ours with the same weights, its head in the literal order where it has one."""
    options = NETWORKS[name] | ({"literal": True} if "literal" in zoo.describe(name).options else {})
    copy = zoo.build(name, CLASSES, **options)
    copy.load_state_dict(ours.state_dict())
    return copy


def logits_of(output: object) -> list[Tensor]:
    """What a loss is taken of."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):  # torchvision's
        return [output["out"], output["aux"]]
    return [output.logits, *output.aux]  # type: ignore[attr-defined]


def apart(name: str) -> tuple[float, int, int]:
    """On noise: largest difference of the logits against their range; parameters of theirs and ours."""
    theirs, ours = (m.eval() for m in theirs_and_ours(name))
    for module in (*theirs.modules(), *ours.modules()):
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5  # transformers' for all; the authors' are 1e-6 and 1e-5
    side = 380 if name == "unet" else 128
    x = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        a, b = theirs(x), ours(x)
    a, b = (logits_of(output)[0] for output in (a, b))
    counts = [sum(p.numel() for p in m.parameters()) for m in (theirs, ours)]
    return float((a - b).abs().max() / (a.max() - a.min())), counts[0], counts[1]


# ---------------------------------------------------------------------- the two loops


class Plain:
    """The plain loop, on the batch that `trainer` would train on."""

    def __init__(self, name: str, trainer: Trainer):
        self.model = theirs_and_ours(name)[0].to(DEVICE).train()
        self.weights = (1.0, *trainer.aux_weights)
        batch = next(iter(trainer.loader.epoch(0)))
        x, target = trainer.to_device(batch)
        self.x, self.target = x.contiguous(), target.index.long()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)

    def __call__(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        outputs = logits_of(self.model(self.x))
        loss = sum(w * F.cross_entropy(y, self.target) for w, y in zip(self.weights, outputs, strict=False))
        loss.backward()  # type: ignore[union-attr]
        self.optimizer.step()
        loss.item()  # type: ignore[union-attr]


def write_images(root: Path, size: int, count: int) -> None:
    """Noise in colour with a mask of squares."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{k} class{k}\n" for k in range(CLASSES)))
    for i in range(count):
        cv2.imwrite(str(root / "images" / f"{i}.png"), rng.integers(0, 255, (size, size, 3), np.uint8))
        mask = rng.integers(0, CLASSES, (8, 8), np.uint8)
        mask = cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "masks" / f"{i}.png"), mask)


def trainer(name: str, way: dict, root: Path, size: int, batch: int) -> Trainer:
    """A trainer of `name`, which is at its first step."""
    options = {k: v for k, v in NETWORKS[name].items() if k not in ("encoder", "in_channels")}
    height, width = legal_size(zoo.registry.architecture(name), size)
    config = TrainConfig(
        name, NETWORKS[name].get("encoder"), options=options, data=f"folder:{root}", size=(height, width),
        batch=batch, augment="none", workers=0, optimizer="sgd", lr=1e-4, loss="ce", amp="off", clip=0.0,
        val_fraction=0.3, device=DEVICE,
    )  # fmt: skip
    return Trainer(replace(config, **way), root / "run", Display(Console(quiet=True)))


def ours(name: str, way: dict, root: Path, size: int, batch: int) -> Callable[[], object]:
    """One step of ours, ready to be run."""
    t = trainer(name, way, root, size, batch)
    t.model.train()
    group = [next(iter(t.loader.epoch(0)))]
    return partial(t.step, group)


def peak(who: str, name: str, root: Path, size: int, batch: int) -> float:
    """MiB of a step above what lies in memory between steps, in a process of its own."""
    options = ["--peak", who, "--root", str(root), "--size", str(size), "--batch", str(batch)]
    return memory.in_child(__file__, name, *options)


def print_peak(who: str, name: str, root: Path, size: int, batch: int) -> None:
    """What `peak` reads."""
    job: Callable[[], object]
    if who == "theirs":
        job = Plain(name, trainer(name, {}, root, size, batch))
    else:
        job = ours(name, WAYS[who], root, size, batch)
    for _ in range(2):  # the optimizer's moments, and whatever is loaded on first use
        job()
    print(memory.above_rest(job, DEVICE, times=2))


def row(name: str, way: str, theirs: float, root: Path, args: argparse.Namespace) -> list[str]:
    """A line of the table; theirs: MiB."""
    one = ours(name, WAYS[way], root, args.size, args.batch)
    other = Plain(name, trainer(name, {}, root, args.size, args.batch))
    b, a, ratio = in_turn(one, other, args.pairs)
    del one, other
    mib = peak(way, name, root, args.size, args.batch)
    cells = [name, way, f"{a * 1e3:.0f}", f"{b * 1e3:.0f}", f"{1 / ratio:.2f}"]
    return [*cells, f"{theirs:.0f}", f"{mib:.0f}", f"{mib / theirs:.2f}"]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(NETWORKS), help="default: all")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    plain = [way for way in WAYS if "compile" not in way]
    known = "; ".join(WAYS)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), metavar="WAY", default=plain, help=known)
    parser.add_argument("--peak", help=argparse.SUPPRESS)  # these two are the child's
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.peak:
        print_peak(args.peak, args.names[0], args.root, args.size, args.batch)
        return
    where = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{torch.get_num_threads()} threads"
    shape = f"{args.batch}×3×{args.size}×{args.size}"
    print(f"torch {torch.__version__}, {where}, {shape}, {CLASSES} classes, {args.pairs} pairs", flush=True)
    columns = ("", "way", "theirs ms", "ours ms", "faster", "theirs MiB", "ours MiB", "of theirs")
    table = Table(*columns)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data", args.size, args.batch * 3)
        for name in args.names:
            far, a, b = apart(name)
            print(f"{name}: logits differ by {far:.1e} of their range, parameters {a:,} and {b:,}")
            root = Path(folder) / "data"
            theirs = peak("theirs", name, root, args.size, args.batch)
            for way in args.ways:
                cells = row(name, way, theirs, root, args)
                table.add_row(*cells)
                print(" | ".join(cells), flush=True)
    Console(width=max(120, Console().width)).print(table)


if __name__ == "__main__":
    main()
