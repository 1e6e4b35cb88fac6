"""If these break, a network learns from masks that are not those of the images that it sees."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.test_losses import CASES, classes_of, labels
from tests.core.test_trainer import assert_same_run, config, interrupted_at, trainer
from zoo.core import checkpoint
from zoo.core.config import Preprocess
from zoo.core.loader import Batch, Order
from zoo.core.losses import GAMMA, SMOOTH, Criterion, Target, make_target
from zoo.core.masks import IGNORE
from zoo.core.mix import Mix, memory_form, parse, picture
from zoo.core.network import training_mode
from zoo.core.ranks import Ranks
from zoo.errors import InputError

SIZE, MARGIN = (6, 8), 2


def batch(task: str, n: int = 5, ignored: float = 0.2) -> tuple[Tensor, Tensor, Tensor, Batch]:
    """Images (N, 1, 10, 12) in float64, masks and weights (N, 6, 8), and what belongs to them; a class is
    absent from image 0, and the third sample's partner could not be read."""
    k = classes_of(task)
    if task == "multilabel":
        mask = torch.randint(0, 2**k, (n, *SIZE), dtype=torch.int32)
        mask[0] &= ~(1 << (k - 1))
    else:
        mask = torch.randint(0, max(k, 2), (n, *SIZE), dtype=torch.uint8)
        mask[torch.rand(mask.shape) < ignored] = IGNORE
    x = torch.rand(n, 1, *(s + 2 * MARGIN for s in SIZE), dtype=torch.float64)
    weight = 1 + torch.rand(mask.shape)
    partners = [1, 0, 2, 4, 3][:n]
    seeds = [int(seed) for seed in torch.randint(2**62, (n,))]
    return x, mask, weight, Batch(x, mask, weight, list("abcde"[:n]), seeds, partners, [])


def planes_of(target: Target) -> Tensor:
    """float64 (N, K, H, W)."""
    if target.planes is not None:
        return target.planes.double()
    return torch.stack([target.mask == c for c in range(target.num_classes)], 1).double()


def slow(name: str, z: Tensor, target: Target) -> Tensor:
    """A term by its formula, with a soft target where the formula takes one."""
    assert target.partner is not None
    assert target.share is not None
    valid = torch.ones(z.shape[0], 1, *z.shape[2:]) if target.valid is None else target.valid
    multiclass = target.planes is None
    own, other = planes_of(target), planes_of(target.partner)
    share = target.share.double().view(-1, 1, 1, 1)
    soft = (share * own + (1 - share) * other) * valid
    p = z.softmax(1) if multiclass else z.sigmoid()
    log_p = z.log_softmax(1) if multiclass else torch.nn.functional.logsigmoid(z)
    log_q = torch.zeros_like(z) if multiclass else torch.nn.functional.logsigmoid(-z)
    count = valid.sum() * (1 if multiclass else z.shape[1])
    if name in ("bce", "ce"):
        return -((soft * log_p + (1 - soft) * log_q) * valid).sum() / count
    if name == "dice":
        areas, mass, overlap = soft.sum((2, 3)), (p * valid).sum((2, 3)), (p * soft).sum((2, 3))
        present = 1 - (2 * overlap + SMOOTH) / (mass + areas + SMOOTH)
        return torch.where(areas > 0, present, mass / valid.sum((2, 3))).mean()
    losses = []
    for t, weight in ((own, target.weight), (other, target.partner.weight)):
        ce = -(t * log_p + (1 - t) * log_q) * valid
        ce = ce.sum(1, keepdim=True) if multiclass else ce
        if name == "focal":
            losses.append((1 - (-ce).exp()) ** GAMMA * ce)
        else:
            assert weight is not None
            losses.append(ce * weight[:, None].double())
    return (share * losses[0] + (1 - share) * losses[1]).sum() / count


@pytest.mark.parametrize(("spec", "task"), [case for case in CASES if "+" not in case[0]])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_losses_of_mixup_are_those_of_the_soft_target(spec: str, task: str, ignored: float) -> None:
    """Values and gradients, by the formula in float64; focal and weighted: the mix of both masks' losses."""
    x, mask, weight, about = batch(task, ignored=ignored)
    _, target = Mix("mixup:0.8")(x, mask, weight, about, labels(task, classes_of(task)))
    z = (3 * torch.randn(target.shape, dtype=torch.float64)).requires_grad_()
    found = Criterion(spec, labels(task, classes_of(task)))(z, target)
    expected = slow(spec, z, target)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    grads = [torch.autograd.grad(loss, z)[0] for loss in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "binary"])
def test_mixup_mixes_both_ways(task: str) -> None:
    """Images by the share of the pair's first sample; a pixel that is ignored in one is ignored in both."""
    mix, (x, mask, weight, about) = Mix("mixup:0.8"), batch(task)
    mixed, target = mix(x, mask, weight, about, labels(task, classes_of(task)))
    assert target.partner is not None
    assert target.share is not None
    for i, j in enumerate(about.partners):
        share = mix.draw(about.seeds[min(i, j)], SIZE).share if i != j else 1.0
        assert target.share[i] == pytest.approx(share)
        torch.testing.assert_close(mixed[i], share * x[i] + (1 - share) * x[j], rtol=1e-6, atol=1e-6)
        if task != "multilabel":
            ignored = (mask[i] == IGNORE) | (mask[j] == IGNORE)
            for part in (target, target.partner):
                assert part.valid is not None
                assert torch.equal(~part.valid[i, 0], ignored)
    assert target.weight is not None
    assert target.partner.weight is not None
    assert torch.equal(target.weight, weight)
    assert torch.equal(target.partner.weight, weight[about.partners])
    kept = make_target(mask, labels(task, classes_of(task)))
    own, other = planes_of(target), planes_of(target.partner)
    valid = 1 if target.valid is None else target.valid
    assert torch.equal(own, planes_of(kept) * valid)
    assert torch.equal(other, planes_of(kept)[about.partners] * valid)


@pytest.mark.parametrize("task", ["multilabel", "multiclass", "binary"])
def test_cutmix_cuts_images_and_masks_alike(task: str) -> None:
    """The same box of both, and of the weights; the image's lies a margin further in."""
    mix, (x, mask, weight, about) = Mix("cutmix:1"), batch(task)
    mixed, target = mix(x, mask, weight, about, labels(task, classes_of(task)))
    assert target.partner is None
    assert target.weight is not None
    cut = 0
    for i, j in enumerate(about.partners):
        inside = torch.zeros(SIZE, dtype=torch.bool)
        if i != j:
            _, rows, columns = mix.draw(about.seeds[min(i, j)], SIZE)
            inside[rows, columns] = True
        cut += int(inside.sum())
        expected = torch.where(inside, mask[j], mask[i])
        if task == "binary":
            expected = torch.where(expected == IGNORE, 0, expected)
        assert np.array_equal(memory_form(target, i, labels(task, classes_of(task))), expected.numpy())
        assert torch.equal(target.weight[i], torch.where(inside, weight[j], weight[i]))
        around = torch.nn.functional.pad(inside, (MARGIN,) * 4)
        assert torch.equal(mixed[i, 0], torch.where(around, x[j, 0], x[i, 0]))
    assert cut > 0


def test_a_cut_pair_in_a_batch_with_a_mixed_one_keeps_its_pixels() -> None:
    """What is ignored in the rest of its partner, it does not see."""
    mix, (x, mask, weight, about) = Mix("mixup:0.8+cutmix:1"), batch("multiclass", ignored=0.5)
    words = {mix.draw(seed, SIZE).share == 1: seed for seed in range(20)}
    about = about._replace(seeds=[words[True], 0, 0, words[False], 0])  # pairs (0, 1) and (3, 4)
    cut_only = about._replace(partners=[1, 0, 2, 3, 4])
    target, alone = (mix(x, mask, weight, b, labels("multiclass", 3))[1] for b in (about, cut_only))
    assert target.partner is not None
    assert alone.partner is None
    for part in (target, target.partner):
        assert torch.equal(part.mask[:3], alone.mask[:3])
    assert not torch.equal(target.mask[3:], target.partner.mask[3:])


def test_what_goes_in_stays_as_it_is() -> None:
    """`--debug-nan` keeps the batch and mixes it again."""
    for spec in ("mixup:1", "cutmix:1"):
        x, mask, weight, about = batch("multiclass")
        before = [t.clone() for t in (x, mask, weight)]
        Mix(spec)(x, mask, weight, about, labels("multiclass", 3))
        assert all(map(torch.equal, before, (x, mask, weight)))


def test_shares_and_boxes_are_as_published() -> None:
    """λ from Beta(A, A); a box before it is cut off at the border has 1 - λ of the area."""
    mix = Mix("mixup:0.4+cutmix:1")
    drawn = [mix.draw(seed, (200, 100)) for seed in range(3000)]
    shares = np.array([d.share for d in drawn if d.share < 1])
    assert len(shares) == pytest.approx(1500, abs=100)
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.4 + 1), abs=0.01)  # of Beta(a, a)
    boxes = [(d.rows, d.columns) for d in drawn if d.share == 1]
    inner = [(r, c) for r, c in boxes if r.start > 0 < c.start and r.stop < 200 and c.stop < 100]
    assert len(inner) > 100
    for rows, columns in inner:  # of the image's proportions
        assert (rows.stop - rows.start) == pytest.approx(2 * (columns.stop - columns.start), abs=2)
    # of a side s about a centre anywhere s²/4 is cut off on average; here s² is drawn evenly from 0 to 1
    for axis, n in enumerate((200, 100)):
        shown = np.mean([(box[axis].stop - box[axis].start) / n for box in boxes])
        assert shown == pytest.approx(2 / 3 - 1 / 8, abs=0.02)
    rows = np.array([(r.stop + r.start) / 2 for r, _ in boxes])
    assert abs(rows.mean() - 100) < 5
    assert mix.draw(7, (200, 100)) == mix.draw(7, (200, 100))


def test_without_words_or_partners_nothing_changes() -> None:
    x, mask, weight, about = batch("binary")
    for mix, them in ((Mix("none"), about), (Mix("mixup:1"), about._replace(partners=list(range(5))))):
        mixed, target = mix(x, mask, weight, them, labels("binary", 1))
        assert mixed is x
        assert target.partner is None
    assert not Mix("none")


@pytest.mark.parametrize("size", [2, 3])
def test_a_pair_comes_to_one_process(size: int) -> None:
    """Together they have the batch of one process, in the same pairs."""
    whole = list(Order(13, 5, seed=1, pairs=True))
    assert whole == list(Order(13, 5, seed=1)), "mixing does not change the order of one process"
    parts = [list(Order(13, 5, seed=1, ranks=Ranks(rank, size), pairs=True)) for rank in range(size)]
    for keys, *shares in zip(whole, *parts, strict=True):
        pairs = {tuple(keys[i : i + 2]) for i in range(0, len(keys), 2)}
        assert {tuple(s[i : i + 2]) for s in shares for i in range(0, len(s), 2)} == pairs


def test_partners_are_neighbours_that_could_be_read(shapes: Path, tmp_path: Path) -> None:
    t = trainer(config(shapes, batch=5, mix="mixup:1"), tmp_path / "run")
    dataset = t.loader.loader.dataset
    items = [dataset.load(0, i) for i in range(5)]  # type: ignore[attr-defined]
    later = dataset.load(1, 0)  # type: ignore[attr-defined]
    collate = dataset.collate  # type: ignore[attr-defined]
    assert collate(items).partners == [1, 0, 3, 2, 4]
    assert collate([items[0], InputError("gone"), *items[2:]]).partners == [0, 2, 1, 3]
    assert collate([]).partners == [0]
    assert collate([later]).seeds != collate(items[:1]).seeds, "each epoch mixes anew"


STEPS: tuple[dict, ...] = (  # all heads; a margin, dropout and weights; an auxiliary head, BatchNorm frozen
    {},
    {"arch": "unet", "options": {"width": 2}, "size": (20, 20), "loss": "weighted_ce"},
    {"arch": "fcn", "encoder": "resnet18", "options": {}, "freeze_bn": True, "grad_checkpoint": True},
    {"arch": "fcn", "encoder": "resnet18", "options": {}, "freeze_bn": True, "amp": "bf16", "loss": "focal"},
)


@pytest.mark.parametrize("changes", STEPS, ids=str)
@pytest.mark.parametrize("spec", ["mixup:1", "cutmix:1"])
def test_accumulated_pairs_are_the_step_of_the_whole(
    spec: str, changes: dict, shapes: Path, tmp_path: Path
) -> None:
    """3 × 2 images step as 1 × 6 do, whatever the network; and not as without mixing."""
    c = config(shapes, augment="none", **changes)
    found = []
    for i, (batch, accumulate, mix) in enumerate([(6, 1, spec), (2, 3, spec), (6, 1, "none")]):
        t = trainer(replace(c, batch=batch, accumulate=accumulate, mix=mix), tmp_path / str(i))
        training_mode(t.model, c)
        loss = t.step(list(islice(t.loader.epoch(0), accumulate)))
        gradient = torch.cat([p.grad.flatten() for p in t.model.parameters() if p.grad is not None])
        found.append((loss, gradient))
    (loss, gradient), (of_parts, in_parts), (_, other) = found
    assert of_parts == pytest.approx(loss, rel=1e-5)
    norm = gradient.norm()
    assert (in_parts - gradient).norm() < (1e-4 if c.amp == "off" else 0.01) * norm
    assert (other - gradient).norm() > 0.05 * norm


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(task: str, shapes: Path, tmp_path: Path) -> None:
    """Bit for bit, with other workers; and says by a picture what it mixes."""
    c = config(shapes, mix="mixup:0.4+cutmix:1", augment="default")
    if task == "multilabel":
        c = replace(c, data="phantom", limit_train=8, limit_val=1)
    trainer(c, tmp_path / "whole").fit()
    interrupted_at(2, trainer(c, tmp_path / "parts"))
    state = checkpoint.read(tmp_path / "parts" / "last.pt")
    trainer(replace(c, workers=2), tmp_path / "parts", resume=state).fit()
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    sheets = [cv2.imread(str(tmp_path / run / "samples" / "mixed.png")) for run in ("whole", "parts")]
    assert sheets[0].shape == (256, 4 * 260 - 4, 3)
    assert np.array_equal(*sheets)


def test_the_picture_shows_both_masks() -> None:
    """Red under the first mask, green under the second, in their shares."""
    about = Batch(torch.zeros(2), torch.zeros(2), None, ["a", "b"], [3, 4], [1, 0], [])
    mask = torch.zeros(2, 8, 8, dtype=torch.uint8)
    mask[0, :4], mask[1, 4:] = 1, 2
    ours = labels("multiclass", 3)
    ours = type(ours)("multiclass", ours.names, ((0, 0, 0), (200, 0, 0), (0, 200, 0)))
    x, target = Mix("mixup:1")(torch.zeros(2, 1, 8, 8), mask, None, about, ours)
    sheet = picture(x, target, Preprocess(1, (0.0,), (1.0,), (8, 8), False), ours)
    share = Mix("mixup:1").draw(3, (8, 8)).share
    assert sheet[:256, :256].max() == 0
    assert np.allclose(sheet[:128, 260:516], (100 * share, 0, 0), atol=1.5)
    assert np.allclose(sheet[128:256, 260:516], (0, 100 * (1 - share), 0), atol=1.5)
    assert np.allclose(sheet[:128, 780:], (100 * (1 - share), 0, 0), atol=1.5), "the other one of the pair"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mixup", "mixup needs a number from 0.01 to 100 behind a colon, as in mixup:0.4"),
        ("cutmix:0", "cutmix needs a number from 0.01 to 100"),
        ("mixup:nan", "mixup needs a number from 0.01 to 100"),
        ("mixup:1e308", "mixup needs a number from 0.01 to 100"),
        ("mixup:inf", "mixup needs a number from 0.01 to 100"),
        ("mixup:a", "mixup needs a number from 0.01 to 100"),
        ("mixpu:1", "'mixpu' is not known; nearest: mixup, cutmix, or none"),
        ("", "'' is not known"),
        ("mixup:1+mixup:2", "mixup stands in it twice"),
    ],
)
def test_what_cannot_be_read(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=r"^--mix .*" + says.replace("?", r"\?")):
        parse(spec)


def test_batches_that_have_no_pairs(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--mix mixup:1: has no pairs in --batch 1; give it 2 or more$"):
        trainer(config(shapes, mix="mixup:1", batch=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"^--batch 4: fewer pairs than processes, which are 3$"):
        Mix("mixup:1").check(4, 3)
    Mix("mixup:1").check(5, 3)
    Mix("none").check(3, 3)
