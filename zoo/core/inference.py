"""What infer.py does: images found in a folder, predicted by one network or several, masks written.

    OUT/masks/NAME.png          multiclass, binary: grey, the values of the dataset's own mask files
    OUT/masks/NAME.npz          multilabel: `bits` (H, W), class k in bit k, and `names`
    OUT/planes/NAME/CLASS.png   on request: one class, 0 or 255
    OUT/overlays/NAME.png       to look at
    OUT/worst/, OUT/scores.csv  with a truth to compare with, see zoo.core.evaluate

NAME is the image's path below the input folder, without its suffix.
"""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from zoo.core import pictures
from zoo.core.ensemble import Ensemble
from zoo.core.files import write_bytes
from zoo.core.images import SUFFIXES, read_image
from zoo.core.masks import Labels, class_plane
from zoo.core.pipeline import Answer, Behind, ahead
from zoo.core.predictor import Predictor
from zoo.core.runs import CocoFile, RunLengths
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.core.evaluate import Evaluation

FOLDERS = ("masks", "planes", "overlays", "worst")
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """An image to predict.  name: under which its results are filed; label: what the csv calls it.

    file: what the COCO file calls it, the path below the input folder.
    """

    path: Path
    name: str
    label: str
    file: str

    def read(self, channels: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The image (H, W) or (H, W, 3), and its true mask, if there is one.  Raises InputError."""
        return read_image(self.path, channels), None


def find_images(source: Path, out: Path) -> list[Item]:
    """The image `source`, or all images in that folder and below, in order of their paths.

    Hidden files are left out, and results of an earlier run in `out`.  Two images that differ in the suffix
    alone keep it in their names; two of one base name in different sub-folders are labelled by their paths.
    Raises InputError where there is nothing to do.
    """
    if source.is_file():
        return [Item(source, source.stem, source.name, source.name)]
    if not source.is_dir():
        raise InputError(f"--input {source}: no such file or folder")
    paths = [path.relative_to(source) for path in source.rglob("*") if path.suffix.lower() in SUFFIXES]
    paths = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    results = [(out / folder).resolve() for folder in FOLDERS]
    own = {folder for folder in results if source.resolve() in folder.parents}
    paths = [path for path in paths if not own.intersection((source / path).resolve().parents)]
    paths = [path for path in paths if (source / path).is_file()]
    if not paths:
        raise InputError(f"--input {source}: no images here (looked for {' '.join(SUFFIXES)}, below it too)")
    return [
        Item(source / path, *names, path.as_posix())
        for path, names in zip(paths, names_of(paths), strict=True)
    ]


def names_of(paths: Sequence[PurePath]) -> list[tuple[str, str]]:
    """(name, label) for each image: the path without its suffix and the base name, where these are unique."""
    stems = Counter(path.with_suffix("") for path in paths)
    bases = Counter(path.name for path in paths)
    return [
        (
            (path if stems[path.with_suffix("")] > 1 else path.with_suffix("")).as_posix(),
            path.name if bases[path.name] == 1 else path.as_posix(),
        )
        for path in paths
    ]


def predict_all(
    predictor: Predictor | Ensemble,
    items: Iterable[Item],
    writer: "Writer",
    report: Callable[[Item, str], None],
    evaluation: "Evaluation | None" = None,
) -> None:
    """Predict, score and write each image; then report(item, ""), or the reason why it could not be.

    The next images are read and the last written while the network works.  A result that cannot be written
    stops the run, for the next one could not be either: InputError.
    """
    run = predictor.run if isinstance(predictor, Ensemble) else partial(one_by_one, predictor)
    channels = predictor.channels if isinstance(predictor, Ensemble) else predictor.preprocess.channels

    def conclude(answer: Answer[Item]) -> None:
        """Score an image and write what became of it."""
        item = answer.item
        if evaluation and answer.image is not None and answer.mask is not None:
            with answer.holding():
                _, truth = item.read(channels)  # here, behind the network, for truths are as large as images
                if truth is not None:
                    evaluation.add(item.label, answer.image, answer.mask, truth)
        if answer.fault is None and answer.image is not None and answer.mask is not None:
            writer.write(item, answer.image, answer.mask)
        report(item, reason(answer))

    with Behind() as behind:
        for answer in run(items, lambda item: item.read(channels)[0]):
            behind.put(partial(conclude, answer))


def one_by_one(
    predictor: Predictor, items: Iterable[T], read: Callable[[T], np.ndarray]
) -> Iterator[Answer[T]]:
    """The answers of a single network, as `Ensemble.run`'s."""
    for item, reading in ahead(read, items):
        answer = Answer(item)
        with answer.holding():
            answer.image = reading.result()
            answer.mask = predictor(answer.image)
        yield answer


def reason(answer: Answer[Item]) -> str:
    """Why there is nothing, or ""."""
    item, fault = answer.item, answer.fault
    if fault is None:
        return ""
    if isinstance(fault, InputError):
        return str(fault) if str(item.path) in str(fault) else f"{item.path}: {fault}"
    said = (str(fault).splitlines() or ["no more said"])[0]
    return f"{item.path}: not enough memory for an image of this size, or: {said}"


class Writer:
    """Writes the results of images under the folder `out`; as a context manager it finishes the csv file.

    csv_file: run lengths of every image and class, in `rle_order` ("C": row by row, "F": column by column).
    coco_file: those that are not empty, as the COCO format has them.
    """

    def __init__(
        self,
        out: Path,
        labels: Labels,
        *,
        csv_file: Path | None = None,
        rle_order: str = "C",
        coco_file: Path | None = None,
        planes: bool = False,
        overlays: bool = True,
    ):
        self.out, self.labels, self.planes, self.overlays = out, labels, planes, overlays
        self.class_files = file_names(labels.names)
        if (out / "images").is_dir() and (out / "masks").is_dir():
            raise InputError(f"--out {out}: is a data set, whose masks would be lost; choose another folder")
        pictures.make_folder(out)
        self.runs: list[RunLengths | CocoFile] = []
        if coco_file:
            self.runs.append(CocoFile(coco_file, labels))
        if csv_file:
            self.runs.append(RunLengths(csv_file, labels, rle_order))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # both, even if the first cannot be written
            for file in self.runs:
                stack.callback(file.close)

    def write(self, item: Item, image: np.ndarray, mask: np.ndarray) -> None:
        """All files of one image.  Raises InputError where one cannot be written."""
        if self.labels.task == "multilabel":
            data = io.BytesIO()
            np.savez_compressed(data, bits=mask, names=np.array(self.labels.names))
            path = self.out / "masks" / f"{item.name}.npz"
            pictures.make_folder(path.parent)
            write_bytes(path, data.getbuffer())
        else:
            pictures.write_png(self.out / "masks" / f"{item.name}.png", file_values(mask, self.labels))
        if self.planes:
            for k, name in enumerate(self.class_files):
                plane = class_plane(mask, self.labels, k).astype(np.uint8) * 255
                pictures.write_png(self.out / "planes" / item.name / f"{name}.png", plane)
        if self.overlays:
            picture = pictures.overlay(image, mask, self.labels)
            pictures.write_png(self.out / "overlays" / f"{item.name}.png", picture)
        for file in self.runs:
            file.add(item.file if isinstance(file, CocoFile) else item.label, mask)


def file_values(mask: np.ndarray, labels: Labels) -> np.ndarray:
    """A multiclass or binary mask with the values that the dataset's own mask files have: uint8, or uint16
    where these need it."""
    count = labels.num_classes + (labels.task == "binary")
    values = np.array(labels.index or range(count))
    return values.astype(np.uint8 if values.max() <= 255 else np.uint16)[mask]


def file_names(names: Sequence[str]) -> list[str]:
    """Class names as file names: other letters than those of words, blanks, dots, + and - become _."""
    plain = [re.sub(r"[^\w .+-]", "_", name).strip(" .") or "_" for name in names]
    counts = Counter(name.lower() for name in plain)  # some file systems do not tell A from a
    return [f"{name}_{k}" if counts[name.lower()] > 1 else name for k, name in enumerate(plain)]
