"""voc:PATH, pets:PATH, cityscapes:PATH: public sets, in the layouts that torchvision.datasets reads.

    voc         PATH/VOCdevkit/VOC2012/    PASCAL VOC 2012: 21 classes, 255 (the objects' rims) ignored
    pets        PATH/oxford-iiit-pet/      Oxford-IIIT Pet: pet against background, the border between ignored
    cityscapes  PATH/leftImg8bit, gtFine   the 19 classes of its benchmark, the other 15 ignored

torchvision finds the files; they are checked and read as those of any folder.  Training and validation are
the set's own: train and val, of the pets trainval and test.  Masks keep the values of the set's own files
(`Labels.index`): infer.py writes Cityscapes' ids, not the numbers 0 to 18.
"""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from zoo.core.classes import Class, Colour, index_labels, without_ignored
from zoo.core.folder import Folder, Pair, examine_pair, folders, strangers
from zoo.core.images import Progress, on_all_cores, refuse_all
from zoo.errors import InputError
from zoo.weights.classes import VOC

Files = Iterable[tuple[str | Path, str | Path]]  # image and mask
FAILURES = (  # what a library raises for data that is not there, not whole, or cannot be fetched
    RuntimeError, OSError, ValueError, EOFError, HTTPException, zipfile.BadZipFile, tarfile.TarError,
    zlib.error,
)  # fmt: skip


class Public(NamedTuple):
    """A public set.

    find: (PATH, split, whether to fetch it) -> its files.  splits: what trains, what validates.
    classes: the values in its masks.  layout: below PATH.  remedy: what to do where it is missing.
    """

    find: Callable[[Path, str, bool], Files]
    splits: tuple[str, str]
    classes: Callable[[], list[Class]]
    layout: str
    remedy: str


def _find_voc(root: Path, split: str, download: bool) -> Files:
    from torchvision.datasets import VOCSegmentation

    found = VOCSegmentation(root, image_set=split, download=download)
    return zip(found.images, found.masks, strict=True)


def _find_pets(root: Path, split: str, download: bool) -> Files:
    from torchvision.datasets import OxfordIIITPet

    found = OxfordIIITPet(root, split, target_types="segmentation", download=download)
    return zip(found._images, found._segs, strict=True)  # which have no public names


def _find_cityscapes(root: Path, split: str, download: bool) -> Files:
    from torchvision.datasets import Cityscapes

    found = Cityscapes(root, split, target_type="semantic")  # unpacks the set's zip files, if they lie there
    return (
        (image, masks[0])
        for image, masks in zip(found.images, found.targets, strict=True)
        if image.endswith("_leftImg8bit.png")
    )


def voc_colour(k: int) -> Colour:
    """VOC's colour of class k: the bits of k, dealt to red, green and blue in turn, from the highest down."""
    r, g, b = (sum((k >> 3 * n + c & 1) << 7 - n for n in range(3)) for c in range(3))
    return r, g, b


def _voc() -> list[Class]:
    return [Class(k, name, voc_colour(k)) for k, name in enumerate(VOC)]


def _pets() -> list[Class]:
    """The values of its trimaps; background first, as a binary task has it."""
    return [Class(2, "background"), Class(1, "pet"), Class(3, "border", ignore=True)]


def _cityscapes() -> list[Class]:
    """The ids of its files; those that its benchmark leaves out are ignored."""
    from torchvision.datasets import Cityscapes

    listed = [c for c in Cityscapes.classes if c.id >= 0]
    return [Class(c.id, c.name, c.color, ignore=c.ignore_in_eval) for c in listed]


SETS = {
    "voc": Public(
        _find_voc, ("train", "val"), _voc,
        "VOCdevkit/VOC2012/ with ImageSets/Segmentation/, JPEGImages/ and SegmentationClass/",
        "--download fetches it (2 GB)",
    ),
    "pets": Public(
        _find_pets, ("trainval", "test"), _pets,
        "oxford-iiit-pet/ with images/ and annotations/",
        "--download fetches it (0.8 GB)",
    ),
    "cityscapes": Public(
        _find_cityscapes, ("train", "val"), _cityscapes,
        "leftImg8bit/ and gtFine/ with train/CITY/ and val/CITY/ in each, or the two zip files of these",
        "they are to be had from cityscapes-dataset.com, after a login",
    ),
}  # fmt: skip


def open_public(
    kind: str,
    root: Path,
    task: str | None,
    ignore: Sequence[int],
    download: bool = False,
    progress: Progress | None = None,
) -> tuple[Folder, Folder]:
    """(training, validation) of the set `kind` of SETS below `root`, fetched if `download` and not there.

    Raises InputError where it is not there or cannot be fetched, and one for all that is wrong with files.
    """
    public = SETS[kind]
    classes, ignored = without_ignored(public.classes(), ignore)
    labels = index_labels(classes, task)
    parts = [_pairs(kind, root, split, download) for split in public.splits]
    pairs = [pair for part in parts for pair in part]
    found = on_all_cores(examine_pair, pairs, progress)
    problems = [line for f in found for line in f.problems]
    refuse_all(root, problems + strangers(pairs, found, classes, ignored))
    train, val = folders(root, parts, found, classes, labels, ignore)
    return train, val


def _pairs(kind: str, root: Path, split: str, download: bool) -> list[Pair]:
    public = SETS[kind]
    where = f"data {kind}:{root}"
    try:
        files = list(public.find(root, split, False))
    except FAILURES as e:
        if not download:
            raise InputError(f"{where}: {_reason(e)}; it wants {public.layout}; {public.remedy}") from e
        try:
            files = list(public.find(root, split, True))
        except FAILURES as e:
            raise InputError(
                f"{where}: cannot be fetched: {_reason(e)}; try again, or put {public.layout} there by hand"
            ) from e
    if not files:
        raise InputError(f"{where}: its part {split} has no image; it wants {public.layout}")
    paths = sorted({(Path(image), Path(mask)) for image, mask in files})
    return [Pair(image, mask, image.relative_to(root).as_posix()) for image, mask in paths]


def _reason(e: Exception) -> str:
    """An exception of the library in a few words."""
    if isinstance(e, OSError) and e.filename:
        return f"{e.filename}: {e.strerror}"
    said = str(getattr(e, "reason", "") or e).split(". ")[0]  # what follows is for who calls the library
    return said.rstrip(".") or type(e).__name__
