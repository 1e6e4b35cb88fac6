"""If these fail, networks train on something other than what the loss's name says, or stop on a NaN.

Every loss is held against its formula, written out slowly in float64, and against numerical gradients.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.core import losses
from zoo.core.losses import Criterion, Target, default_loss, make_target, total
from zoo.core.masks import IGNORE, Labels
from zoo.errors import InputError
from zoo.layers import Output

CASES = [  # every term with every task that it fits, and the compositions that are defaults or a paper's
    ("bce", "multilabel"), ("dice", "multilabel"), ("focal", "multilabel"), ("bce+dice", "multilabel"),
    ("bce", "binary"), ("dice", "binary"), ("focal", "binary"), ("weighted_ce", "binary"),
    ("0.5*bce+dice", "binary"), ("ce", "multiclass"), ("dice", "multiclass"), ("focal", "multiclass"),
    ("weighted_ce", "multiclass"), ("ce+dice", "multiclass"),
]  # fmt: skip
cases = pytest.mark.parametrize(("spec", "task"), CASES)


def labels(task: str, classes: int) -> Labels:
    return Labels(task, tuple(f"class {k}" for k in range(classes)), ((0, 0, 0),) * classes)


def classes_of(task: str) -> int:
    return 1 if task == "binary" else 3


Shape = tuple[int, int, int]


def problem(task: str, shape: Shape = (3, 5, 7), ignored: float = 0.3) -> tuple[Tensor, Target]:
    """Logits (N, K, H, W) in float64 and a target, with a share of ignored pixels where the task knows them.

    A class is absent from image 0, another is all of image 1.
    """
    k = classes_of(task)
    if task == "multilabel":
        mask = torch.randint(0, 2**k, shape, dtype=torch.int32)
        mask[0] &= ~(1 << (k - 1))
        mask[1] |= 1
    else:
        mask = torch.randint(0, max(k, 2), shape, dtype=torch.uint8)
        mask[0][mask[0] == max(k, 2) - 1] = 0
        mask[1] = 1
        mask[torch.rand(shape) < ignored] = IGNORE
    logits = 3 * torch.randn(shape[0], k, *shape[1:], dtype=torch.float64)
    return logits, make_target(mask, labels(task, k), 1 + torch.rand(shape))


def truth(target: Target) -> tuple[Tensor, Tensor]:
    """Targets as float64 planes (N, K, H, W), and what is valid, bool (N, H, W)."""
    n, k, h, w = target.shape
    valid = torch.ones(n, h, w, dtype=torch.bool) if target.valid is None else target.valid[:, 0]
    if target.planes is not None:
        return target.planes.double(), valid
    return torch.stack([target.mask == c for c in range(k)], 1).double(), valid


# ---------------------------------------------------------------------- the formulas, slowly


def slow(spec: str, z: Tensor, target: Target) -> float:
    """The loss by its definition, pixel by pixel."""
    t, valid = truth(target)
    p = z.softmax(1) if target.planes is None else z.sigmoid()
    return sum(
        float(factor or 1) * SLOW[name](p, t, valid, target)
        for factor, _, name in (part.rpartition("*") for part in spec.split("+"))
    )


def slow_entropies(p: Tensor, t: Tensor, valid: Tensor, target: Target, gamma: float = 0) -> list[float]:
    """-(1 - p)^gamma log p of each decision, p being the probability of what is true."""
    n, k, h, w = p.shape
    right: list[float] = []
    for i, y, x in ((i, y, x) for i in range(n) for y in range(h) for x in range(w) if valid[i, y, x]):
        if target.planes is None:
            right.append(p[i, :, y, x][t[i, :, y, x] == 1].item())
        else:
            right += [(p if t[i, c, y, x] else 1 - p)[i, c, y, x].item() for c in range(k)]
    return [-((1 - q) ** gamma) * math.log(q) for q in right]


def slow_ce(p: Tensor, t: Tensor, valid: Tensor, target: Target, gamma: float = 0) -> float:
    entropies = slow_entropies(p, t, valid, target, gamma)
    return sum(entropies) / len(entropies)


def slow_weighted_ce(p: Tensor, t: Tensor, valid: Tensor, target: Target) -> float:
    entropies = slow_entropies(p, t, valid, target)
    weights = target.weight[valid].tolist()
    return sum(w * e for w, e in zip(weights, entropies, strict=True)) / len(weights)


def slow_dice(p: Tensor, t: Tensor, valid: Tensor, target: Target) -> float:
    pairs = []
    for n in range(p.shape[0]):
        for k in range(p.shape[1]):
            if not valid[n].any():
                continue
            a, b = p[n, k][valid[n]], t[n, k][valid[n]]
            pairs.append(1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) if b.any() else a.mean())
    return float(sum(pairs) / len(pairs))


SLOW = {
    "bce": slow_ce,
    "ce": slow_ce,
    "focal": lambda *args: slow_ce(*args, gamma=2),
    "weighted_ce": slow_weighted_ce,
    "dice": slow_dice,
}


@cases
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_loss_equals_its_formula(spec: str, task: str, ignored: float) -> None:
    logits, target = problem(task, ignored=ignored)
    criterion = Criterion(spec, labels(task, classes_of(task)))
    assert (target.valid is not None) == (ignored > 0 and task != "multilabel")
    assert criterion(logits, target).item() == pytest.approx(slow(spec, logits, target), rel=1e-6)
    assert criterion(logits.float(), target).item() == pytest.approx(slow(spec, logits, target), rel=1e-5)


@cases
def test_gradients_are_the_formulas(spec: str, task: str) -> None:
    logits, target = problem(task, (2, 3, 4))
    criterion = Criterion(spec, labels(task, classes_of(task)))
    assert torch.autograd.gradcheck(lambda z: criterion(z, target), (logits.requires_grad_(),))


@pytest.mark.parametrize("block", [1, 50, 2**20])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_sums_equal_torch_functions_in_any_layout(
    block: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK", block)
    logits, target = problem("multilabel", (2, 9, 7))
    z = logits.float().contiguous(memory_format=layout).requires_grad_()
    t = target.planes.float()
    p = z.sigmoid()
    maps = (F.binary_cross_entropy_with_logits(z, t, reduction="none"), p * t, p)
    plain = [x.sum((2, 3)) for x in maps]
    sums = losses.SigmoidSums.apply(z, target.planes)
    for ours, theirs in zip(sums, plain, strict=True):
        torch.testing.assert_close(ours, theirs)
    weights = torch.randn(3, 2, 3)
    ours, theirs = (torch.autograd.grad((torch.stack(list(s)) * weights).sum(), z)[0] for s in (sums, plain))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(target.areas, t.sum((2, 3)))


def test_cross_entropy_is_right_for_every_logit() -> None:
    z = torch.linspace(-120, 120, 48001).view(1, 1, -1, 1)
    criterion = Criterion("bce", labels("binary", 1))
    for value in (0, 1):
        target = make_target(torch.full((1, 48001, 1), value, dtype=torch.uint8), labels("binary", 1))
        exact = F.softplus((1 - 2 * value) * z.double()).mean().item()
        assert criterion(z, target).item() == pytest.approx(exact, rel=1e-6)
    certain = torch.full((1, 1, 64, 64), 17.0)  # 1 - p is the last digit of a float32 here
    right = criterion(certain, make_target(torch.ones(1, 64, 64, dtype=torch.uint8), labels("binary", 1)))
    assert right.item() == pytest.approx(math.exp(-17), abs=6e-8)


def test_weighted_ce_is_the_unet_papers_sum_over_pixels() -> None:
    logits, target = problem("multiclass", (2, 6, 5), ignored=0)
    log_p, w = logits.log_softmax(1), target.weight.double()
    pixels = [(n, y, x) for n in range(2) for y in range(6) for x in range(5)]
    energy = sum(w[n, y, x] * log_p[n, target.index[n, y, x], y, x] for n, y, x in pixels)  # eq. 1
    loss = Criterion("weighted_ce", labels("multiclass", 3))(logits, target)
    assert loss.item() == pytest.approx(-energy.item() / 60)  # the paper's sign is to be maximised


def test_one_logit_is_the_difference_of_two_maps() -> None:
    z, target = problem("binary")
    index = target.planes[:, 0].to(torch.uint8).masked_fill(~target.valid[:, 0], IGNORE)
    two_maps = make_target(index, labels("multiclass", 2), target.weight)
    both = torch.cat([torch.zeros_like(z), z], 1)
    single = Criterion("weighted_ce", labels("binary", 1))(z, target)
    torch.testing.assert_close(Criterion("weighted_ce", labels("multiclass", 2))(both, two_maps), single)


# ---------------------------------------------------------------------- classes that are absent


def one_of_29(size: int = 32) -> Target:
    """The peers' failure: 29 classes of which one is in the image."""
    mask = torch.zeros(1, size, size, dtype=torch.int32)
    mask[:, 4:12, 4:12] = 1 << 5
    return make_target(mask, labels("multilabel", 29))


@pytest.mark.parametrize("spec", ["dice", "bce+dice", "bce", "focal"])
def test_predicting_nothing_is_cheaper_than_everything_where_classes_are_absent(spec: str) -> None:
    """The most used library's Dice: 0.034 for nothing, 0.021 for everything."""
    target, criterion = one_of_29(), Criterion(spec, labels("multilabel", 29))
    nothing = torch.full(target.shape, -20.0)
    right = torch.where(target.planes, 20.0, nothing)
    losses = [criterion(z, target).item() for z in (right, nothing, -nothing)]
    assert losses[0] < 1e-6
    assert losses[0] < losses[1] < losses[2] / 5


@pytest.mark.parametrize("spec", ["dice", "bce+dice", "bce", "focal"])
@pytest.mark.parametrize("z", [-8.0, 0.0, 8.0])
def test_absent_classes_are_pulled_down_at_every_pixel(spec: str, z: float) -> None:
    """The most used library's gradient on the 28 absent classes is exactly 0."""
    target = one_of_29()
    logits = torch.full(target.shape, z, requires_grad=True)
    Criterion(spec, labels("multilabel", 29))(logits, target).backward()
    absent = logits.grad[0, torch.arange(29) != 5]
    present = logits.grad[0, 5][~target.planes[0, 5]]
    assert (absent > 0).all()
    assert absent.min() > 0.1 * present.max()  # of a size that counts


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_dice_alone_learns_what_is_absent(task: str) -> None:
    if task == "multilabel":
        target, k = one_of_29(16), 29
    else:
        k, mask = 6, torch.zeros(1, 16, 16, dtype=torch.uint8)
        mask[:, 4:12, 4:12] = 3
        target = make_target(mask, labels(task, k))
    logits = torch.randn(target.shape).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    criterion = Criterion("dice", labels(task, k))
    for _ in range(40):
        optimizer.zero_grad()
        criterion(logits, target).backward()
        optimizer.step()
    t, _ = truth(target)
    hard = logits > 0 if task == "multilabel" else logits.argmax(1)[:, None] == torch.arange(k)[:, None, None]
    assert torch.equal(hard, t.bool())


@cases
@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("z", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_empty_and_full_masks_have_finite_gradients(spec: str, task: str, value: int, z: float) -> None:
    k = classes_of(task)
    form = torch.int32 if task == "multilabel" else torch.uint8
    target = make_target(torch.full((1, 4, 5), value, dtype=form), labels(task, k), torch.ones(1, 4, 5))
    logits = torch.zeros(1, k, 4, 5)
    logits[:, 0] = z
    loss = Criterion(spec, labels(task, k))(logits.requires_grad_(), target)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


# ---------------------------------------------------------------------- precision


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(spec: str, task: str, dtype: torch.dtype) -> None:
    logits, target = problem(task)
    half = logits.to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    criterion = Criterion(spec, labels(task, classes_of(task)))
    expected = criterion(full, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(half, target)
        same = criterion(full.detach(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == same.item() == expected.item()
    loss.backward()
    expected.backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, full.grad.to(dtype), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize(
    ("spec", "task", "share"),  # of the logits' size that is the loss
    [
        ("bce+dice", "multilabel", 1 / 8),
        ("bce+dice", "binary", 1 / 4),
        ("ce+dice", "multiclass", 1 / 2),
        ("weighted_ce", "multiclass", 10 / 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_2048_pixels_of_huge_logits_do_not_overflow(
    spec: str, task: str, share: float, dtype: torch.dtype
) -> None:
    k = 1 if task == "binary" else 2
    mask = torch.zeros(1, 2048, 2048, dtype=torch.int32 if task == "multilabel" else torch.uint8)
    mask[:, :1024] = 1
    logits = torch.full((1, k, 2048, 2048), -6e4, dtype=dtype)
    logits[:, :1, :512] = 6e4
    weight = torch.full((1, 2048, 2048), 10.0) if spec == "weighted_ce" else None
    target = make_target(mask, labels(task, k), weight)
    loss = Criterion(spec, labels(task, k))(logits.requires_grad_(), target)
    loss.backward()
    assert loss.item() == pytest.approx(share * logits.detach().max().item(), abs=20)
    assert logits.grad.isfinite().all()


# ---------------------------------------------------------------------- ignored pixels


@pytest.mark.parametrize(("spec", "task"), [c for c in CASES if c[1] != "multilabel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ignored_pixels_count_for_nothing(spec: str, task: str, dtype: torch.dtype) -> None:
    logits, target = problem(task)
    ignored = ~target.valid.expand(target.shape)
    criterion = Criterion(spec, labels(task, classes_of(task)))
    z = logits.to(dtype).requires_grad_()
    loss = criterion(z, target)
    loss.backward()
    assert (z.grad[ignored] == 0).all()
    assert (z.grad[~ignored] != 0).all()
    for other in (-3e4, 0.0, 3e4):
        assert criterion(torch.where(ignored, other, z.detach()), target).item() == loss.item()


@pytest.mark.parametrize(("spec", "task"), [c for c in CASES if c[1] != "multilabel"])
def test_an_image_that_is_all_ignored_is_as_if_absent(spec: str, task: str) -> None:
    logits, target = problem(task)
    index = target.index if target.planes is None else target.planes[:, 0].long()
    mask = index.to(torch.uint8).masked_fill(~target.valid[:, 0], IGNORE)
    mask[2] = IGNORE
    meaning = labels(task, classes_of(task))
    criterion = Criterion(spec, meaning)
    first_two = criterion(logits[:2], make_target(mask[:2], meaning, target.weight[:2]))
    torch.testing.assert_close(criterion(logits, make_target(mask, meaning, target.weight)), first_two)

    z = logits.requires_grad_()
    nothing = criterion(z, make_target(torch.full_like(mask, IGNORE), meaning, target.weight))
    nothing.backward()
    assert nothing.item() == 0
    assert (z.grad == 0).all()


# ---------------------------------------------------------------------- parts of a batch, auxiliary maps


@cases
@pytest.mark.parametrize("parts", [(3,), (1, 2), (1, 1, 1)])
def test_accumulated_parts_equal_the_whole_batch(spec: str, task: str, parts: tuple[int, ...]) -> None:
    logits, target = problem(task)
    criterion = Criterion(spec, labels(task, classes_of(task)))
    whole = criterion(logits.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(whole, logits)

    fields = (target.planes, target.index, target.valid, target.weight)
    pieces = [[None] * len(parts) if x is None else x.split(parts) for x in fields]
    targets = [Target(*part, target.num_classes) for part in zip(*pieces, strict=True)]
    denominators = torch.stack([criterion.denominators(t) for t in targets]).sum(0)
    loss = sum(criterion(z, t, denominators) for z, t in zip(logits.split(parts), targets, strict=True))
    torch.testing.assert_close(loss, whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], gradient, rtol=1e-6, atol=1e-12)


def test_denominators_count_the_target_alone() -> None:
    mask = torch.zeros(2, 4, 5, dtype=torch.uint8)
    mask[0, 0] = IGNORE
    mask[1] = IGNORE
    target = make_target(mask, labels("multiclass", 3))
    denominators = Criterion("ce+dice", labels("multiclass", 3)).denominators(target)
    assert denominators.dtype == torch.float32
    assert denominators.tolist() == [15, 3]  # valid pixels; pairs of a class with an image that has any
    bits = make_target(torch.zeros(2, 4, 5, dtype=torch.int64), labels("multilabel", 40))
    assert Criterion("bce+dice", labels("multilabel", 40)).denominators(bits).tolist() == [1600, 80]


def test_total_weighs_the_auxiliary_maps() -> None:
    logits, target = problem("multilabel")
    aux = (logits.flip(0), -logits)
    criterion = Criterion("bce+dice", labels("multilabel", 3))
    denominators = 2 * criterion.denominators(target)
    expected = sum(w * criterion(z, target) for w, z in ((1, logits), (0.4, aux[0]), (2, aux[1])))
    output = Output(logits, aux)
    torch.testing.assert_close(total(criterion, output, (0.4, 2.0), target), expected)
    torch.testing.assert_close(total(criterion, output, (0.4, 2.0), target, denominators), expected / 2)
    torch.testing.assert_close(total(criterion, Output(logits), (), target), criterion(logits, target))
    with pytest.raises(ValueError, match="longer"):
        total(criterion, output, (0.4,), target)


def test_unetpp_papers_hybrid() -> None:
    """Zhou et al. 2018: half the cross-entropy minus Dice, flattened per image; here plus 1, and smoothed."""
    mask = torch.randint(0, 2, (3, 6, 5), dtype=torch.uint8)
    logits = torch.randn(3, 1, 6, 5, dtype=torch.float64)
    p, y = logits.sigmoid().flatten(1), mask.double().flatten(1)
    hybrid = torch.zeros(())
    for b in range(3):
        entropy = -(y[b] * p[b].log() + (1 - y[b]) * (1 - p[b]).log()).mean()
        overlap = (2 * (y[b] * p[b]).sum() + 1) / (y[b].sum() + p[b].sum() + 1)
        hybrid = hybrid + (0.5 * entropy - overlap + 1) / 3
    loss = Criterion("0.5*bce+dice", labels("binary", 1))(logits, make_target(mask, labels("binary", 1)))
    assert loss.item() == pytest.approx(hybrid.item(), rel=1e-6)


# ---------------------------------------------------------------------- targets, specs, wrong ones


def test_targets_from_masks() -> None:
    bits = torch.tensor([[[0b101, 0b010]]], dtype=torch.int32)
    target = make_target(bits, labels("multilabel", 3))
    assert target.planes[0, :, 0].tolist() == [[True, False], [False, True], [True, False]]
    assert target.valid is None
    assert target.areas.tolist() == [[1, 1, 1]]

    target = make_target(torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), labels("binary", 1))
    assert target.planes[0, 0, 0].tolist() == [False, True, False]
    assert target.valid[0, 0, 0].tolist() == [True, True, False]
    assert target.pixels.tolist() == [2]

    target = make_target(torch.tensor([[[0, 1, 255, 1]]], dtype=torch.uint8), labels("multiclass", 3))
    assert target.index[0, 0].tolist() == [0, 1, 255, 1]
    assert target.areas.tolist() == [[1, 2, 0]]
    assert target.shape == (1, 3, 1, 4)


def test_specs() -> None:
    assert losses.parse("bce") == {"bce": 1}
    assert losses.parse(" 0.5 * bce + 2*dice ") == {"bce": 0.5, "dice": 2}
    assert losses.parse("1e-1*focal+ce") == {"focal": 0.1, "ce": 1}
    assert Criterion("weighted_ce", labels("multiclass", 2)).needs_weight
    assert not Criterion("ce", labels("multiclass", 2)).needs_weight
    for task, spec in (("multilabel", "bce+dice"), ("binary", "bce+dice"), ("multiclass", "ce+dice")):
        assert default_loss(task) == spec
        Criterion(spec, labels(task, classes_of(task)))


@pytest.mark.parametrize(
    ("spec", "task", "words"),
    [
        ("bce+dcie", "multilabel", "loss 'bce.dcie': unknown term 'dcie'; nearest: dice"),
        ("hausdorff", "multilabel", "known: bce, ce, dice, focal, weighted_ce"),
        ("", "multilabel", "unknown term ''"),
        ("bce+", "multilabel", "unknown term ''"),
        ("dice*2", "multilabel", "a weight before them, as in 0.5.bce.dice"),
        ("half*bce", "multilabel", "the weight 'half' of bce must be a number above 0"),
        ("0*bce", "multilabel", "the weight '0' of bce"),
        ("-1*bce", "multilabel", "above 0"),
        ("nan*bce", "multilabel", "above 0"),
        ("inf*bce", "multilabel", "above 0"),
        ("*bce", "multilabel", "the weight '' of bce"),
        ("bce+0.5*bce", "multilabel", "bce stands in it twice"),
        ("ce", "multilabel", "ce does not fit multilabel data; use bce, dice, focal"),
        ("bce+dice", "multiclass", "bce does not fit multiclass data; use dice, ce, focal, weighted_ce"),
        ("weighted_ce", "multilabel", "weighted_ce does not fit multilabel"),
        ("ce", "binary", "ce does not fit binary data; use bce, dice, focal, weighted_ce"),
    ],
)
def test_what_a_wrong_spec_gets(spec: str, task: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Criterion(spec, labels(task, classes_of(task)))


def test_what_wrong_tensors_get() -> None:
    logits, target = problem("multilabel")
    criterion = Criterion("bce", labels("multilabel", 3))
    with pytest.raises(InputError, match=r"logits \(3, 1, 5, 7\) do not fit a target of \(3, 3, 5, 7\)"):
        criterion(logits[:, :1], target)
    logits, target = problem("binary")
    target.weight = None
    with pytest.raises(InputError, match="needs a weight a pixel"):
        Criterion("weighted_ce", labels("binary", 1))(logits, target)
