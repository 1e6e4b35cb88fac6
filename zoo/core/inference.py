"""What infer.py does: images found in a folder, predicted by one network or several, masks written.

    OUT/masks/NAME.png          multiclass, binary: grey, the values of the dataset's own mask files
    OUT/masks/NAME.npz          multilabel: `bits` (H, W), class k in bit k, and `names`
    OUT/planes/NAME/CLASS.png   on request: one class, 0 or 255
    OUT/overlays/NAME.png       to look at

NAME is the image's path below the input folder, without its suffix.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeVar

import numpy as np

from zoo.core import pictures
from zoo.core.ensemble import Ensemble
from zoo.core.files import write_bytes
from zoo.core.images import SUFFIXES, read_image
from zoo.core.masks import Labels, rle_encode
from zoo.core.pipeline import Answer, Behind, ahead
from zoo.core.predictor import Predictor
from zoo.errors import InputError

FOLDERS = ("masks", "planes", "overlays")
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """An image to predict.  name: under which its results are filed; label: what the csv calls it."""

    path: Path
    name: str
    label: str


def find_images(source: Path, out: Path) -> list[Item]:
    """The image `source`, or all images in that folder and below, in order of their paths.

    Hidden files are left out, and results of an earlier run in `out`.  Two images that differ in the suffix
    alone keep it in their names; two of one base name in different sub-folders are labelled by their paths.
    Raises InputError where there is nothing to do.
    """
    if source.is_file():
        return [Item(source, source.stem, source.name)]
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
    stems = Counter(path.with_suffix("") for path in paths)
    bases = Counter(path.name for path in paths)
    return [
        Item(
            source / path,
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
) -> None:
    """Predict and write each image; then report(item, ""), or the reason why it could not be.

    The next images are read and the last written while the network works.  A result that cannot be written
    stops the run, for the next one could not be either: InputError.
    """
    run = predictor.run if isinstance(predictor, Ensemble) else partial(one_by_one, predictor)
    channels = predictor.channels if isinstance(predictor, Ensemble) else predictor.preprocess.channels
    with Behind() as behind:
        for answer in run(items, lambda item: read_image(item.path, channels)):
            behind.put(partial(_conclude, answer, writer, report))


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


def _conclude(answer: Answer[Item], writer: "Writer", report: Callable[[Item, str], None]) -> None:
    """Write what became of an image and report it."""
    item, fault = answer.item, answer.fault
    if answer.image is not None and answer.mask is not None:
        writer.write(item, answer.image, answer.mask)
        report(item, "")
    elif isinstance(fault, InputError):
        report(item, str(fault) if str(item.path) in str(fault) else f"{item.path}: {fault}")
    else:
        reason = (str(fault).splitlines() or ["no more said"])[0]
        report(item, f"{item.path}: not enough memory for an image of this size, or: {reason}")


class Writer:
    """Writes the results of images under the folder `out`; as a context manager it finishes the csv file.

    csv_file: run lengths of every image and class, in `rle_order` ("C": row by row, "F": column by column).
    """

    def __init__(
        self,
        out: Path,
        labels: Labels,
        *,
        csv_file: Path | None = None,
        rle_order: str = "C",
        planes: bool = False,
        overlays: bool = True,
    ):
        self.out, self.labels, self.planes, self.overlays = out, labels, planes, overlays
        self.class_files = file_names(labels.names)
        if (out / "images").is_dir() and (out / "masks").is_dir():
            raise InputError(f"--out {out}: is a data set, whose masks would be lost; choose another folder")
        pictures.make_folder(out)
        self.csv = RunLengths(csv_file, labels, rle_order) if csv_file else None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.csv:
            self.csv.close()

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
        if self.csv:
            self.csv.add(item.label, mask)


class RunLengths:
    """The csv file of the hand-bone competition: `image_name,class,rle`, a row for each image and class.

    Rows go to a temporary file beside `path`, which `close` renames: what was there stays until then.
    """

    def __init__(self, path: Path, labels: Labels, order: str):
        if path.is_dir():
            raise InputError(f"--csv {path}: is a folder; give a file name")
        pictures.make_folder(path.parent)
        self.path, self.labels, self.order = path, labels, order
        self.temporary = path.with_name(path.name + ".tmp")
        try:
            self.file: TextIO = open(self.temporary, "w", encoding="utf-8", newline="")  # noqa: SIM115
        except OSError as e:
            raise self._error(e) from e
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(["image_name", "class", "rle"])

    def add(self, image_name: str, mask: np.ndarray) -> None:
        """The rows of one image, all or, if the disk refuses them, InputError."""
        labels = self.labels
        rows = [
            [image_name, name, rle_encode(class_plane(mask, labels, k), self.order)]
            for k, name in enumerate(labels.names)
        ]
        try:
            self.rows.writerows(rows)
        except OSError as e:
            raise self._error(e) from e

    def close(self) -> None:
        """Put the file in its place."""
        try:
            self.file.close()
            os.replace(self.temporary, self.path)
        except OSError as e:
            self.temporary.unlink(missing_ok=True)
            raise self._error(e) from e

    def _error(self, e: OSError) -> InputError:
        return InputError(f"--csv {self.path}: cannot write ({e.strerror}); free space or name another file")


def class_plane(mask: np.ndarray, labels: Labels, k: int) -> np.ndarray:
    """Where (H, W) a mask in memory form has class k."""
    if labels.task == "multilabel":
        plane: np.ndarray = (mask & (1 << k)) != 0
        return plane
    return mask == (1 if labels.task == "binary" else k)


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
