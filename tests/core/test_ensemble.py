"""If these break, several networks together say something else than their mean, or fill the memory.

The plain way is the reference: all logits enlarged to the image, sigmoid or softmax in float64, the mean.
"""

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import zoo
from tests.core.largest import Largest
from zoo.core import checkpoint, ensemble, spool
from zoo.core.checkpoint import Checkpoint, check_labels
from zoo.core.config import Preprocess
from zoo.core.decide import Decision, decide, votes
from zoo.core.ensemble import Ensemble
from zoo.core.images import resize_image
from zoo.core.masks import Labels, mask_dtype, palette, planes
from zoo.core.predictor import Predictor
from zoo.core.transforms import mirror_pad
from zoo.core.views import Tiles, View, parse_views
from zoo.errors import InputError

BONES = Labels("multilabel", ("a", "b", "c"), palette(3))
ROAD = Labels("multiclass", ("sky", "road", "car", "sign"), palette(4))
CELL = Labels("binary", ("cell",), palette(1))
WIDE = Labels("multilabel", tuple(f"c{k}" for k in range(40)), palette(40))
TASKS = pytest.mark.parametrize("labels", [BONES, ROAD, CELL, WIDE], ids=lambda x: f"{x.task}{x.num_classes}")
KINDS = (  # architecture, (h, w) of its output, channels
    ("unetpp", (36, 52), 1),
    ("unetpp", (48, 40), 3),
    ("unet", (52, 36), 1),
)


def save(folder: Path, labels: Labels, i: int = 0, tile: bool = False, size: Sequence[int] = ()) -> Path:
    """A tiny untrained network whose logits are large enough to say something."""
    torch.manual_seed(i)
    arch, own, channels = KINDS[i % len(KINDS)]
    build = {"num_classes": labels.num_classes, "in_channels": channels, "width": 2}
    model = zoo.build(arch, **build)
    preprocess = Preprocess(
        channels, (0.5,) * channels, (0.1,) * channels, tuple(size) or own, tile  # type: ignore[arg-type]
    )
    path = folder / f"{i}.pt"
    checkpoint.write(path, Checkpoint(arch, build, labels, preprocess, model.state_dict(), {"arch": arch}))
    return path


def several(folder: Path, labels: Labels, tile: bool = False) -> list[Path]:
    return [save(folder, labels, i, tile) for i in range(len(KINDS))]


def photo(height: int = 61, width: int = 75, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return resize_image(noise, (height, width))


def join(paths: Sequence[Path], **words: object) -> Ensemble:
    return Ensemble(paths, machine=("cpu", "off"), **words)  # type: ignore[arg-type]


def shares(joined: Ensemble, image: np.ndarray) -> Tensor:
    """Probabilities (K, H, W) as `Ensemble` has them, band after band."""
    return torch.cat([band for _, band in joined.probabilities(image)], dim=1)


def activate(logits: Tensor, labels: Labels) -> Tensor:
    return logits.softmax(0) if labels.task == "multiclass" else logits.sigmoid()


def enlarge(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(logits.double()[None], size, mode="bilinear", align_corners=False)[0]


def plain(path: Path, image: np.ndarray, view: View, labels: Labels) -> Tensor:
    """One network, one view, the whole image resized: float64 probabilities (K, H, W)."""
    predictor = Predictor.from_checkpoint(path, "cpu", "off")
    h, w = predictor.preprocess.size
    if view.scale != 1:
        h, w = (predictor.sizes.least(round(view.scale * side)) for side in (h, w))
    pixels, m = resize_image(image, (h, w)), predictor.margin
    pixels = np.fliplr(pixels) if view.flip else pixels
    for _ in range(view.turns):
        pixels = np.rot90(pixels)
    with torch.no_grad():
        logits = predictor.logits(mirror_pad(np.ascontiguousarray(pixels), m, m, m, m))
    for _ in range(view.turns):
        logits = torch.rot90(logits, -1, (1, 2))
    logits = torch.flip(logits, (2,)) if view.flip else logits
    return activate(enlarge(logits, image.shape[:2]), labels)


def mask_of(probability: Tensor, labels: Labels) -> np.ndarray:
    """Decided plainly, all planes at once."""
    if labels.task == "multiclass":
        return probability.argmax(0).numpy().astype(np.uint8)
    bits = (probability > 0.5).numpy().astype(np.int64) << np.arange(len(probability))[:, None, None]
    return bits.sum(0).astype(mask_dtype(labels))


# ---------------------------------------------------------------- the mean


@TASKS
@pytest.mark.parametrize("spec", ["", "flip,scale:0.75+1.25,rot90"])
def test_the_mean_is_the_plain_one(
    tmp_path: Path, labels: Labels, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "BAND", 7 * 75 * labels.num_classes)  # bands of 7 rows
    paths, views, image, weights = several(tmp_path, labels), parse_views(spec), photo(), (2, 1, 3)
    expected = sum(
        weight * plain(path, image, view, labels) / len(views) / 6
        for path, weight in zip(paths, weights, strict=True)
        for view in views
    )
    assert isinstance(expected, Tensor)
    joined = join(paths, weights=weights, views=views)
    found = shares(joined, image)
    assert found.shape == (labels.num_classes, 61, 75)
    assert (found - expected).abs().max() < 1e-5
    mask = joined(image)
    assert mask.dtype == mask_dtype(labels)
    assert np.array_equal(mask, decide(found, labels).numpy())
    assert (mask == mask_of(expected, labels)).mean() > 0.999
    assert len(np.unique(mask)) > 1


@TASKS
def test_one_checkpoint_alone_is_its_own_mean(tmp_path: Path, labels: Labels) -> None:
    path, image = save(tmp_path, labels), photo()
    alone = Predictor.from_checkpoint(path, "cpu", "off")(image)
    assert (join([path])(image) == alone).mean() > 0.999
    assert (join([path, path, path])(image) == alone).mean() > 0.999


def test_a_flip_does_not_change_what_a_class_is(tmp_path: Path) -> None:
    """A hand's mirror image has its thumb at the other side, and it is still the thumb."""
    path, image = save(tmp_path, BONES), photo()
    one = shares(join([path], views=[View(flip=True)]), image)
    assert (one - plain(path, image, View(flip=True), BONES)).abs().max() < 1e-5


# ---------------------------------------------------------------- votes


@TASKS
def test_votes_are_counted_by_weight(tmp_path: Path, labels: Labels) -> None:
    paths, image, weights = several(tmp_path, labels), photo(), (1, 2, 1.5)
    count = torch.zeros(labels.num_classes, 61, 75, dtype=torch.float64)
    for path, weight in zip(paths, weights, strict=True):
        single = Predictor.from_checkpoint(path, "cpu", "off")(image)
        count += weight * torch.from_numpy(planes(single, labels)[0]).double()
    if labels.task == "multiclass":
        expected = count.argmax(0).numpy()
    else:
        expected = mask_of(count / 4.5, labels)
    assert (join(paths, weights=weights, rule="vote")(image) == expected).mean() > 0.999


def test_half_the_votes_are_not_a_majority_and_the_lower_class_wins_a_tie() -> None:
    tie = torch.tensor([0.5, 0.5])[:, None, None]
    assert decide(tie, Labels("multilabel", ("a", "b"), palette(2))).item() == 0
    assert decide(tie, Labels("multiclass", ("a", "b"), palette(2))).item() == 0
    assert decide(torch.full((1, 1, 1), 0.51), CELL).item() == 1


@pytest.mark.parametrize("labels", [BONES, ROAD], ids=lambda x: x.task)
@pytest.mark.parametrize("surer", [0, 1])
def test_of_two_that_contradict_each_other_the_surer_one_is_right(
    tmp_path: Path, labels: Labels, surer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 both are certain, 1 and 0, and their mean is an exact half."""
    paths, sure = [save(tmp_path, labels, 0), save(tmp_path, labels, 1)], [20.0, 20.0]
    sure[surer] = 24.0
    joined = join(paths)

    def logits(window: np.ndarray) -> Tensor:
        found = torch.full((labels.num_classes, *window.shape[:2]), -40.0)
        found[joined.current] = sure[joined.current]
        if labels.task == "multilabel":  # what one sets with certainty the other rules out with certainty
            found[1 - joined.current] = -sure[joined.current]
        else:
            found[1 - joined.current] = 0
        return found

    monkeypatch.setattr(Predictor, "logits", lambda self, window: logits(window))
    mask = joined(photo())
    assert (mask == (1 << surer if labels.task == "multilabel" else surer)).all()


@pytest.mark.parametrize("labels", [BONES, CELL], ids=lambda x: x.task)
def test_each_class_has_its_own_threshold(labels: Labels) -> None:
    p = torch.rand(labels.num_classes, 9, 9)
    thresholds = [0.2, 0.5, 0.9][: labels.num_classes]
    expected = sum((p[k] > t).long() << k for k, t in enumerate(thresholds))
    assert torch.equal(decide(p, labels, thresholds).long(), expected)  # type: ignore[arg-type]
    for k, t in enumerate(thresholds):
        assert torch.equal(votes(p, labels, thresholds)[k], (p[k] > t).float())


# ---------------------------------------------------------------- tiles


def tiled(path: Path, image: np.ndarray, tile: int, blend: str, labels: Labels) -> Tensor:
    """Tiles of a network without a margin by loops: overlap a half, mirrored by a quarter of a tile."""
    predictor = Predictor.from_checkpoint(path, "cpu", "off")
    (H, W), border, K = image.shape[:2], tile // 4, labels.num_classes
    wide = np.pad(image, ((border, border), (border, border), (0, 0)), mode="reflect")
    total, weight = torch.zeros(K, *wide.shape[:2]).double(), torch.zeros(wide.shape[:2]).double()
    at = torch.arange(tile).double() + 0.5 - tile / 2
    g = torch.exp(-(at**2) / (2 * (tile / 8) ** 2)) if blend == "gaussian" else torch.ones(tile).double()
    last = (wide.shape[0] - tile, wide.shape[1] - tile)
    for y in sorted({*range(0, last[0], tile // 2), last[0]}):
        for x in sorted({*range(0, last[1], tile // 2), last[1]}):
            with torch.no_grad():
                logits = predictor.logits(np.ascontiguousarray(wide[y : y + tile, x : x + tile])).double()
            total[:, y : y + tile, x : x + tile] += logits * g[:, None] * g
            weight[y : y + tile, x : x + tile] += g[:, None] * g
    inner = (total / weight)[:, border : border + H, border : border + W]
    return activate(inner, labels)


@pytest.mark.parametrize("labels", [BONES, ROAD], ids=lambda x: x.task)
@pytest.mark.parametrize("blend", ["gaussian", "flat"])
def test_tiles_blend_as_the_plain_loops_do(
    tmp_path: Path, labels: Labels, blend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "BAND", 7 * 71 * labels.num_classes)  # bands of 7 rows
    paths, image = [save(tmp_path, labels, i) for i in (0, 1)], photo(90, 71)
    joined = join(paths, tiles=Tiles((32, 32), 0.5, blend))
    expected = (tiled(paths[0], image, 32, blend, labels) + tiled(paths[1], image, 32, blend, labels)) / 2
    found = shares(joined, image)
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("view", parse_views("flip,rot90")[1:], ids=str)
def test_tiles_of_a_view_are_those_of_the_image_so_shown(tmp_path: Path, view: View) -> None:
    path, image, tiles = save(tmp_path, BONES), photo(90, 71), Tiles((32, 24), 0.25)
    found = shares(join([path], tiles=tiles, views=[view]), image)
    expected = view.restore(shares(join([path], tiles=tiles), view.show(image)))
    assert (found - expected).abs().max() < 1e-5


@TASKS
def test_a_network_with_itself_decides_as_it_does_alone(tmp_path: Path, labels: Labels) -> None:
    """Thresholds and filters, those of components that reach over bands and parts too."""
    path, image, n = save(tmp_path, labels), photo(120, 90), labels.num_classes
    alone = Predictor.from_checkpoint(path, "cpu", "off")
    plainly = alone(image)
    low = Decision.of(labels, [] if labels.task == "multiclass" else [0.4] * n)
    alone.decision = replace(low, min_area=(30,) * n, largest=(True, *[False] * (n - 1)))
    expected = alone(image)
    assert (expected != plainly).any()
    for spool_bytes in (None, 1):
        joined = join([path, path], spool=spool_bytes)
        joined.decision = alone.decision
        assert (joined(image) == expected).mean() > 0.999


def test_fitted_thresholds_are_averaged_as_the_probabilities_are(tmp_path: Path) -> None:
    paths = [save(tmp_path, BONES, 0), save(tmp_path, BONES, 1)]
    for path, fitted in zip(paths, [(0.2, 0.5, 0.5), (0.6, 0.5, 0.8)], strict=True):
        checkpoint.write(path, replace(checkpoint.read(path), thresholds=fitted))
    assert join(paths).decision.thresholds == (0.4, 0.5, 0.65)
    assert join(paths, weights=[3, 1]).decision.thresholds == (0.3, 0.5, 0.575)
    assert join(paths, thresholds=[0.1, 0.2, 0.3]).decision.thresholds == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("tile", [(), (48, 40)], ids=["whole", "tiles"])
def test_no_tensor_has_classes_times_image_values(
    tmp_path: Path, tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a network gives and a band of rows are the largest, however large the image is."""

    monkeypatch.setattr(ensemble, "BAND", 40 * 1000 * 3)
    paths = [save(tmp_path, WIDE, 0), save(tmp_path, WIDE, 1)]
    joined = join(paths, tiles=Tiles(tile, 0.25) if tile else None)
    with Largest() as largest:
        mask = joined(photo(1200, 1000))
    assert mask.shape == (1200, 1000)
    assert largest.numel <= 40 * 1000 * 5 < 40 * 1200 * 1000 / 100


def test_a_huge_image_goes_through_the_file_in_parts_and_nothing_changes(tmp_path: Path) -> None:
    paths, image = several(tmp_path, BONES), photo(300, 41)
    words = dict(tiles=Tiles((36, 36), 0.25), views=parse_views("flip,rot90"))
    whole = join(paths[:2], **words)
    room = whole._parts((300, 41))[1] // 3
    small = join(paths[:2], **words, spool=room)
    parts, need = small._parts((300, 41))
    assert len(parts) > 2
    assert need <= room
    high = 0
    write = spool.Spool.write

    def watched(self: spool.Spool, logits: Tensor) -> int:
        nonlocal high
        begin = write(self, logits)
        high = max(high, self.end)
        return begin

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool.Spool, "write", watched)
        mask = small(image)
    assert room // 2 < high <= room
    assert np.array_equal(mask, whole(image))


def test_u_nets_exact_tiles_stay_exact(tmp_path: Path) -> None:
    path, image = save(tmp_path, BONES, 2, tile=True), photo(140, 75)
    alone = Predictor.from_checkpoint(path, "cpu", "off")(image)
    assert (join([path], tiles=Tiles((30, 30), 0.5))(image) == alone).mean() > 0.999
    assert (join([path])(image) == alone).mean() > 0.999


def test_a_tile_below_the_smallest_is_refused_by_name(tmp_path: Path) -> None:
    paths = several(tmp_path, BONES)
    with pytest.raises(InputError, match=r"--tile 16: too small for .*0\.pt, whose smallest is 17"):
        join(paths, tiles=Tiles((16, 16)))
    join(paths, tiles=Tiles((17, 17)))


# ---------------------------------------------------------------- many images


def test_groups_give_what_single_images_give_in_their_order(tmp_path: Path) -> None:
    paths = several(tmp_path, BONES)
    images = [photo(40 + 9 * i, 50, i) for i in range(7)]
    one = join(paths)
    expected = [one(image) for image in images]
    need = one._parts((40, 50))[1]
    for room in (0, need, int(2.5 * need), 100 * need):
        answers = list(join(paths, spool=room).run(range(7), images.__getitem__))
        assert [a.item for a in answers] == list(range(7))
        for answer, image, mask in zip(answers, images, expected, strict=True):
            assert answer.fault is None
            assert answer.image is image
            assert np.array_equal(answer.mask, mask)  # type: ignore[arg-type]


def test_models_are_loaded_once_a_group_and_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths, loads, alive = several(tmp_path, BONES), list[str](), list[weakref.ref]()
    original = Predictor.from_checkpoint

    def counted(path: Path, device: str = "auto", amp: str = "auto") -> Predictor:
        gc.collect()
        assert not any(ref() for ref in alive), "the one before is still in memory"
        predictor = original(path, device, amp)
        loads.append(Path(path).stem)
        alive.append(weakref.ref(predictor.model))
        return predictor

    monkeypatch.setattr(Predictor, "from_checkpoint", counted)
    joined = join(paths)
    assert loads == ["0", "1", "2"]
    need = joined._parts((40, 50))[1]
    joined.most = 2 * need
    loads.clear()
    assert len(list(joined.run(range(4), lambda i: photo(40, 50, i)))) == 4
    assert loads == ["0", "1", "2", "0", "1", "2"], "two groups of two"


def test_a_group_does_not_keep_the_answers_that_were_taken(tmp_path: Path) -> None:
    """A group may be of hundreds of images, and their masks would fill the memory."""
    joined, masks = join([save(tmp_path, BONES, 0), save(tmp_path, BONES, 1)]), list[weakref.ref]()
    for answer in joined.run(range(6), lambda i: photo(40, 50, i)):
        gc.collect()
        assert sum(mask() is not None for mask in masks) <= 1
        masks.append(weakref.ref(answer.mask))  # type: ignore[arg-type]
        assert joined.spool.end, "all six are of one group"
    assert len(masks) == 6


def test_a_broken_image_does_not_stop_the_others(tmp_path: Path) -> None:
    paths = several(tmp_path, BONES)

    def read(i: int) -> np.ndarray:
        if i in (0, 3):
            raise InputError(f"{i} is broken")
        return photo(seed=i)

    for chosen in (paths, paths[:1]):
        answers = list(join(chosen).run(range(5), read))
        assert [a.item for a in answers] == list(range(5))
        assert [str(a.fault) for a in answers if a.fault] == ["0 is broken", "3 is broken"]
        assert [a.mask is None for a in answers] == [True, False, False, True, False]


def test_a_full_disk_is_said_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: spool.Spool, logits: Tensor) -> int:
        raise OSError(28, "No space left on device")

    joined = join(several(tmp_path, BONES))
    monkeypatch.setattr(spool.Spool, "write", full)
    with pytest.raises(InputError, match=r"No space left on device.*TMPDIR"):
        joined(photo())


def test_the_file_leaves_half_of_the_disk_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert ensemble.room() == 500

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(InputError, match=r"No usable temporary directory.*TMPDIR"):
        ensemble.room()


# ---------------------------------------------------------------- what cannot be joined


@pytest.mark.parametrize(
    ("other", "said"),
    [(ROAD, "task is multiclass, that of a.pt multilabel"), (WIDE, "it has 40 classes, a.pt 3"),
     (Labels("multilabel", ("a", "x", "c"), palette(3)), "class 1 is 'x', that of a.pt 'b'"),
     (Labels("multilabel", ("a", "b", "c"), ((1, 2, 3), *palette(3)[1:])), "colour of 'a' is (1, 2, 3)"),
     (Labels("multilabel", ("a", "b", "c"), palette(3), (1, 2, 3)), "[1, 2, 3] in mask files")],
    ids=["task", "count", "names", "colours", "index"],
)  # fmt: skip
def test_checkpoints_of_other_classes_are_refused_with_what_differs(other: Labels, said: str) -> None:
    with pytest.raises(InputError) as e:
        check_labels(BONES, Path("a.pt"), other, Path("b.pt"))
    assert str(e.value).startswith("b.pt: cannot join a.pt: ")
    assert said in str(e.value)


@pytest.mark.parametrize(
    "weights", [(1, 2), (1, 0, 1), (1, -1, 2), (1, float("nan"), 1), (1, 1, 1, 1)], ids=str
)
def test_weights_that_cannot_be_are_refused(tmp_path: Path, weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="--weights: want 3, one above 0"):
        join(several(tmp_path, BONES), weights=weights)
