"""Losses: from logits, in float32 whatever the autocast, composed by `+` with optional weights.

Each term is a numerator over a denominator, and denominators count pixels or pairs of the target alone:
summed over accumulation steps and ranks before backward, they make many small batches equal one large one.

bce          Binary cross-entropy, a mean over valid pixels and classes.
dice         1 - Dice of probabilities, a mean over pairs of image and class; absent classes: see `dice`.
ce           Softmax cross-entropy, a mean over valid pixels.
focal        (1 - p)^2 times the cross-entropy of the task (Lin et al. 2017, eq. 4, gamma 2, without alpha).
             Ours: a mean over decisions; the paper divides by the number of anchors that hold an object.
weighted_ce  U-Net 2015, eq. 1: cross-entropy under a weight a pixel, from `transforms.border_weight`.
             Ours: over the number of valid pixels, as Caffe's softmax loss does; the paper writes a sum.

UNet++'s hybrid loss is `0.5*bce+dice`.  Ours: bce has the term of the negatives too, as in the authors'
code (the paper prints Y log P alone), and dice is 1 - Dice, a constant away from the paper's.

N batch, K classes, (H, W) the logits' size; z logits, p probabilities, t targets 0 or 1.
"""

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.core.masks import IGNORE, Labels, unpack_tensor
from zoo.errors import InputError, nearest
from zoo.layers import Output

IMPOSSIBLE = -1e4  # as a logit or log-probability: probability 0, exactly, in every precision
SMOOTH = 1.0  # pixels added above and below in Dice: bounds its gradient where a class has few
GAMMA = 2.0
M = TypeVar("M", bound="Matched")
BLOCK = 2**21  # numbers that fit the cache together with their temporaries


@dataclass
class Target:
    """Masks as the losses take them.

    planes: bool (N, K, H, W), false where ignored; None for multiclass.
    index: long (N, H, W), IGNORE where ignored; None for multilabel and binary.
    valid: bool (N, 1, H, W); None where no pixel is ignored.  weight: float (N, H, W), for weighted_ce.
    partner, share: of MixUp, the other masks, with the same valid pixels, and how much of each image's target
    is its own, float (N,).
    """

    planes: Tensor | None
    index: Tensor | None
    valid: Tensor | None
    weight: Tensor | None
    num_classes: int
    partner: "Target | None" = None
    share: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Planes or index, whichever there is."""
        mask = self.index if self.planes is None else self.planes
        assert mask is not None
        return mask

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, K, H, W), as the logits must have it."""
        return (self.mask.shape[0], self.num_classes, *self.mask.shape[-2:])

    @cached_property
    def pixels(self) -> Tensor:
        """Valid pixels of each image, float (N,)."""
        if self.valid is None:
            n, _, h, w = self.shape
            return torch.full((n,), float(h * w), device=self.mask.device)
        return self.valid.sum((1, 2, 3)).float()

    @cached_property
    def areas(self) -> Tensor:
        """Valid pixels of each image and class, float (N, K)."""
        if self.planes is None:
            return per_class(torch.ones_like(self.mask, dtype=torch.float32), self)
        areas = torch.zeros(self.shape[:2], device=self.planes.device)
        for n, rows in blocks(self.planes):
            areas[n] += self.planes[n, :, rows].float().sum((1, 2))
        return areas


def make_target(mask: Tensor, labels: Labels, weight: Tensor | None = None) -> Target:
    """A Target from masks (N, H, W) in their memory form: bits for multilabel, else uint8 with IGNORE."""
    if labels.task == "multilabel":
        return Target(unpack_tensor(mask, labels.num_classes), None, None, weight, labels.num_classes)
    ignored = (mask == IGNORE)[:, None]  # (N, 1, H, W)
    valid = ~ignored if ignored.any() else None
    if labels.task == "binary":
        return Target((mask == 1)[:, None], None, valid, weight, 1)
    return Target(None, mask.long(), valid, weight, labels.num_classes)


def per_class(values: Tensor, target: Target) -> Tensor:
    """Sums of `values` (N, H, W) over the valid pixels of each class of a multiclass target, (N, K)."""
    index = target.mask
    if target.valid is not None:
        ignored = ~target.valid[:, 0]
        index, values = index.masked_fill(ignored, 0), values.masked_fill(ignored, 0)
    return values.new_zeros(target.shape[:2]).scatter_add(1, index.flatten(1), values.flatten(1))


def blocks(x: Tensor) -> Iterator[tuple[int, slice]]:
    """(image, rows) that cover `x` (N, K, H, W): on the CPU in cache-sized blocks, else image by image."""
    n, k, h, w = x.shape
    pieces = min(h, -(-k * h * w // BLOCK)) if x.device.type == "cpu" else 1
    step = -(-h // pieces)
    return ((i, slice(row, row + step)) for i in range(n) for row in range(0, h, step))


def wide(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is."""
    return x if x.dtype == torch.float64 else x.float()


# ---------------------------------------------------------------------- logits, read once for all terms


class Matched:
    """Logits against a target; of MixUp also against the partner's masks, which leave out the same pixels."""

    def __init__(self, target: Target):
        self.target = target

    def blend(self: M, of: Callable[[M], Tensor]) -> Tensor:
        """What `of` gives, (N, …); of MixUp, each image's share of what it gives of its two masks."""
        own, share = of(self), self.target.share
        if share is None or self.target.partner is None:
            return own
        if "other" not in vars(self):
            other = copy(self)
            vars(other).pop("sums", None)  # which are of the masks
            other.target = self.target.partner
            vars(self)["other"] = other
        partner = of(vars(self)["other"])
        return torch.lerp(partner, own, share.view(-1, *[1] * (own.ndim - 1)).to(own))


class Sigmoid(Matched):
    """Multilabel and binary: each class of each pixel is a decision of its own.

    An ignored pixel becomes a certain negative: it adds 0 to every sum and gets a gradient of 0.
    """

    def __init__(self, logits: Tensor, target: Target):
        super().__init__(target)
        self.z = logits if target.valid is None else logits.masked_fill(~target.valid, IMPOSSIBLE)

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy, overlap and mass of each image and class, (N, K) each."""
        return SigmoidSums.apply(self.z, self.target.mask)

    def cross_entropy(self) -> Tensor:
        """Summed over an image's decisions, (N,)."""
        return self.sums[0].sum(1)

    def cross_entropies(self) -> Tensor:
        """One a decision, (N, K, H, W); 0 where ignored."""
        z = wide(self.z)
        return F.binary_cross_entropy_with_logits(z, self.target.mask.to(z.dtype), reduction="none")

    def overlap_and_mass(self) -> tuple[Tensor, Tensor]:
        """sum(p t) and sum(p) of each image and class, (N, K)."""
        return self.sums[1:]


class Softmax(Matched):
    """Multiclass: one decision a pixel.  At an ignored pixel every probability is 0."""

    def __init__(self, logits: Tensor, target: Target):
        super().__init__(target)
        log_p = F.log_softmax(wide(logits), dim=1)
        self.log_p = log_p if target.valid is None else log_p.masked_fill(~target.valid, IMPOSSIBLE)

    @cached_property
    def p(self) -> Tensor:
        """(N, K, H, W)."""
        return self.log_p.exp()

    def cross_entropy(self) -> Tensor:
        """Summed over an image's valid pixels, (N,)."""
        return self.cross_entropies().sum((1, 2))

    def cross_entropies(self) -> Tensor:
        """One a pixel, (N, H, W); 0 where ignored."""
        return F.nll_loss(self.log_p, self.target.mask, ignore_index=IGNORE, reduction="none")

    def overlap_and_mass(self) -> tuple[Tensor, Tensor]:
        """sum(p t) and sum(p) of each image and class, (N, K)."""
        index = self.target.mask[:, None]  # (N, 1, H, W)
        index = index.masked_fill(index == IGNORE, 0)
        return per_class(self.p.gather(1, index)[:, 0], self.target), self.p.sum((2, 3))


class SigmoidSums(torch.autograd.Function):
    """The sums of `Sigmoid`, in one pass over blocks that stay in the cache, keeping only the logits.

    Written out because torch's own functions walk the whole map some twenty times: at (8, 29, 192, 192) on
    two cores this is four times as fast, and no float copy of masks or probabilities outlives its block.
    """

    @staticmethod
    def forward(ctx, z: Tensor, planes: Tensor) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(z, planes)
        cross_entropy, overlap, mass = wide(z.new_zeros(3, *z.shape[:2])).unbind()
        for n, rows in blocks(z):
            x = wide(z[n, :, rows])
            p = x.sigmoid()
            t = torch.empty_like(p).copy_(planes[n, :, rows])
            mass[n] += p.sum((1, 2))
            overlap[n] += (p * t).sum((1, 2))
            # softplus(s) of s = (1 - 2t) x, as relu(s) - log(max(p, 1 - p)): within 6e-8 a pixel however
            # large the logits.  log1p would give the digits below, and costs more than all the rest.
            wrong = t.mul_(-2).add_(1).mul_(x).relu_()
            cross_entropy[n] += wrong.sub_(torch.maximum(p, 1 - p).log_()).sum((1, 2))
        return cross_entropy, overlap, mass

    @staticmethod
    @once_differentiable
    def backward(ctx, g_cross_entropy, g_overlap, g_mass):  # type: ignore[no-untyped-def]
        """dz = g_cross_entropy (p - t) + (g_mass + g_overlap t) p (1 - p)."""
        z, planes = ctx.saved_tensors
        dz = torch.empty_like(z)
        for n, rows in blocks(z):
            a, b, c = (g[n, :, None, None] for g in (g_cross_entropy, g_overlap, g_mass))  # (K, 1, 1)
            p = wide(z[n, :, rows]).sigmoid()
            t = torch.empty_like(p).copy_(planes[n, :, rows])
            d = torch.addcmul(c, b, t).mul_(p)
            dz[n, :, rows] = d.addcmul_(d, p, value=-1).addcmul_(a, p.sub_(t))
        return dz, None


# ---------------------------------------------------------------------- the terms

Prediction = Sigmoid | Softmax


def cross_entropy(y: Prediction) -> Tensor:
    """bce or ce, whichever the task has.  Linear in the target: of MixUp, that of the mixed one."""
    return y.blend(lambda y: y.cross_entropy()).sum()


def dice(y: Prediction) -> Tensor:
    """1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s), summed over pairs of image and class.

    Of a class that is absent from an image, the mean of p over its pixels instead: 0 for predicting nothing,
    1 for predicting it everywhere, an even pull on every pixel.  (The formula is flat there: at p = 1/2 its
    gradient is hundreds of times below that of a present class, and without s it is 0.)
    Of MixUp, with the mixed target, whose sums are the mixed sums.
    """
    areas, pixels = y.blend(lambda y: y.target.areas), y.target.pixels[:, None]  # (N, K), (N, 1)
    overlap, mass = y.blend(lambda y: torch.stack(y.overlap_and_mass(), 1)).unbind(1)
    present = 1 - (2 * overlap + SMOOTH) / (mass + areas + SMOOTH)
    return torch.where(areas > 0, present, mass / pixels.clamp(min=1)).sum()


def focal(y: Prediction) -> Tensor:
    """(1 - p)^gamma times the cross-entropy, p the probability of what is true, summed over decisions.

    Of MixUp, the mix of the two masks' losses: of a mixed target p has no meaning.
    """

    def of(y: Prediction) -> Tensor:
        ce = y.cross_entropies()
        return ((-torch.expm1(-ce)) ** GAMMA * ce).flatten(1).sum(1)

    return y.blend(of).sum()


def weighted_ce(y: Prediction) -> Tensor:
    """Cross-entropy times the pixel's weight; a single logit is the difference of the paper's two maps.

    Of MixUp, the mix of the two masks' losses, each under its own weights.
    """

    def of(y: Prediction) -> Tensor:
        if y.target.weight is None:
            raise InputError("weighted_ce needs a weight a pixel: make_target(mask, labels, weight)")
        ce = y.cross_entropies()  # (N, H, W), or (N, 1, H, W) of a single logit
        return (ce * y.target.weight.view_as(ce)).flatten(1).sum(1)

    return y.blend(of).sum()


def decisions(target: Target) -> Tensor:
    """Valid pixels, times the classes where each is a decision of its own."""
    return target.pixels.sum() * (1 if target.planes is None else target.num_classes)


def pairs(target: Target) -> Tensor:
    """Pairs of image and class; an image that is ignored altogether has none."""
    return (target.pixels > 0).sum() * target.num_classes


class Term(NamedTuple):
    """numerator over denominator, for data of the listed tasks."""

    tasks: tuple[str, ...]
    numerator: Callable[[Prediction], Tensor]
    denominator: Callable[[Target], Tensor]


TERMS = {
    "bce": Term(("multilabel", "binary"), cross_entropy, decisions),
    "dice": Term(("multilabel", "multiclass", "binary"), dice, pairs),
    "ce": Term(("multiclass",), cross_entropy, decisions),
    "focal": Term(("multilabel", "multiclass", "binary"), focal, decisions),
    "weighted_ce": Term(("multiclass", "binary"), weighted_ce, decisions),
}

# ---------------------------------------------------------------------- their sum


def default_loss(task: str) -> str:
    """bce+dice, or ce+dice where a pixel has one class of several."""
    return "ce+dice" if task == "multiclass" else "bce+dice"


def parse(spec: str) -> dict[str, float]:
    """`0.5*bce+dice` as {"bce": 0.5, "dice": 1.0}; raises InputError."""
    weights: dict[str, float] = {}
    for part in spec.split("+"):
        factor, star, name = (word.strip() for word in part.rpartition("*"))
        if name not in TERMS:
            raise InputError(
                f"loss {spec!r}: unknown term {name!r}; {nearest(name, TERMS)}; "
                "terms are joined by + and may have a weight before them, as in 0.5*bce+dice"
            )
        if name in weights:
            raise InputError(f"loss {spec!r}: {name} stands in it twice; give it one weight")
        try:
            weights[name] = float(factor) if star else 1.0
        except ValueError:
            weights[name] = math.nan
        if not 0 < weights[name] < math.inf:
            raise InputError(f"loss {spec!r}: the weight {factor!r} of {name} must be a number above 0")
    return weights


class Criterion:
    """The loss that `spec` describes, such as bce+dice or 0.5*bce+dice, for the task of `labels`.

    None is `default_loss`.
    Raises InputError for a spec that cannot be read, and for a term that does not fit the task.
    """

    def __init__(self, spec: str | None, labels: Labels):
        self.spec, self.labels = default_loss(labels.task) if spec is None else spec, labels
        self.weights = parse(self.spec)
        self.terms = {name: TERMS[name] for name in self.weights}
        fits = [name for name, term in TERMS.items() if labels.task in term.tasks]
        for name in self.weights:
            if name not in fits:
                known = ", ".join(fits)
                raise InputError(f"loss {spec!r}: {name} does not fit {labels.task} data; use {known}")

    @property
    def needs_weight(self) -> bool:
        """Whether targets need a weight a pixel."""
        return "weighted_ce" in self.weights

    def denominators(self, target: Target) -> Tensor:
        """One a term, float32 (T,); to be summed over the batches that make one optimizer step."""
        return torch.stack([term.denominator(target).float() for term in self.terms.values()])

    def __call__(self, logits: Tensor, target: Target, denominators: Tensor | None = None) -> Tensor:
        """The loss of `logits` (N, K, H, W), a scalar; without `denominators`, over this target's own."""
        if logits.shape != target.shape:
            raise InputError(f"logits {tuple(logits.shape)} do not fit a target of {target.shape}")
        if denominators is None:
            denominators = self.denominators(target)
        with torch.autocast(logits.device.type, enabled=False):
            y = Softmax(logits, target) if target.planes is None else Sigmoid(logits, target)
            numerators = [self.weights[name] * term.numerator(y) for name, term in self.terms.items()]
            return (torch.stack(numerators) / denominators.clamp(min=1)).sum()


def total(
    criterion: Criterion, output: Output, aux_weights: tuple[float, ...], target: Target,
    denominators: Tensor | None = None,
) -> Tensor:
    """The loss of the logits plus that of each auxiliary map times the model's weight for it."""
    loss = criterion(output.logits, target, denominators)
    for weight, aux in zip(aux_weights, output.aux, strict=True):
        loss = loss + weight * criterion(aux, target, denominators)
    return loss
