"""Masks as run lengths in one file: the hand-bone competition's csv, written and read, and COCO's JSON.

(H, W) an image's size; a mask is in the memory form of its task.
"""

import csv
import os
from collections.abc import Collection
from pathlib import Path
from typing import TextIO

import numpy as np

from zoo.core.files import write_json
from zoo.core.masks import IGNORE, Labels, class_plane, cropped, mask_dtype, rle_decode, rle_encode
from zoo.core.pictures import make_folder
from zoo.core.shapes import plane_to_runs, write_counts
from zoo.errors import InputError, nearest

HEADER = ["image_name", "class", "rle"]


def make_place(flag: str, path: Path) -> None:
    """The folder of a file that will be written.  Raises InputError."""
    if path.is_dir():
        raise InputError(f"{flag} {path}: is a folder; give a file name")
    make_folder(path.parent)


class RunLengths:
    """The csv file of the hand-bone competition: `image_name,class,rle`, a row for each image and class.

    Rows go to a temporary file beside `path`, which `close` renames: what was there stays until then.
    """

    def __init__(self, path: Path, labels: Labels, order: str):
        make_place("--csv", path)
        self.path, self.labels, self.order = path, labels, order
        self.temporary = path.with_name(path.name + ".tmp")
        try:
            self.file: TextIO = open(self.temporary, "w", encoding="utf-8", newline="")  # noqa: SIM115
        except OSError as e:
            raise self._error(e) from e
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(HEADER)

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


class CsvMasks:
    """The masks of a file that `RunLengths` wrote, kept as text and decoded one by one.

    names: of the images that may be in it; order: of its runs.  Raises InputError, with the line, for other
    images or classes and for what occurs twice.
    """

    def __init__(self, path: Path, labels: Labels, names: Collection[str], order: str = "C"):
        self.labels, self.order = labels, order
        self.rows: dict[str, dict[int, tuple[str, str]]] = {}  # image -> class -> where, runs
        csv.field_size_limit(2**31 - 1)
        try:
            with open(path, encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                if (first := next(rows, [])) != HEADER:
                    raise InputError(f"{path}: starts with {','.join(first)[:60]!r}; want {','.join(HEADER)}")
                for row in rows:
                    self.enter(f"{path}, line {rows.line_num}", row, names)
        except (OSError, UnicodeDecodeError, csv.Error) as e:
            raise InputError(f"{path}: cannot be read as a csv file of run lengths ({e})") from e

    def enter(self, where: str, row: list[str], names: Collection[str]) -> None:
        """One row, which stands `where`."""
        if len(row) != len(HEADER):
            raise InputError(f"{where}: {len(row)} fields; want {', '.join(HEADER)}")
        image, name, runs = row
        for what, word, known in (("image", image, names), ("class", name, self.labels.names)):
            if word not in known:
                raise InputError(f"{where}: no {what} {word!r} here; {nearest(word, known)}")
        of_image = self.rows.setdefault(image, {})
        if (k := self.labels.names.index(name)) in of_image:
            raise InputError(f"{where}: {image} has {name} twice; remove one of the rows")
        of_image[k] = where, runs

    def mask(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """The mask of an image of `size` (H, W).  A class without a row is empty; multi-class pixels without
        a class are ignored.

        Raises InputError for runs that leave the image, and overlaps of classes that exclude one another.
        """
        mask = np.full(size, IGNORE if self.labels.task == "multiclass" else 0, mask_dtype(self.labels))
        for k, (where, runs) in self.rows.get(name, {}).items():
            try:
                paint(mask, k, rle_decode(runs, size, self.order), self.labels)
            except InputError as e:
                raise InputError(f"{where}: {e}") from e
        return mask


def paint(mask: np.ndarray, k: int, plane: np.ndarray, labels: Labels) -> None:
    """Give the pixels of `plane` (bool (H, W)) class k.  Raises InputError where they exclude one another."""
    if labels.task == "multilabel":
        mask |= plane.astype(mask.dtype) << mask.dtype.type(k)
        return
    if labels.task == "multiclass" and (mask[plane] != IGNORE).any():
        raise InputError(f"{labels.names[k]} overlaps another class, and these exclude one another")
    mask[plane] = 1 if labels.task == "binary" else k


class CocoFile:
    """Masks in the COCO format: one JSON file with images, categories and, for each class that is somewhere
    in an image, an annotation whose run lengths are a string, as pycocotools packs them.

    Images and categories are numbered from 1 in order.  `--data coco-polygons:` reads the file, too.
    """

    def __init__(self, path: Path, labels: Labels) -> None:
        make_place("--coco", path)
        self.path, self.labels = path, labels
        self.images: list[dict] = []
        self.annotations: list[dict] = []

    def add(self, image_name: str, mask: np.ndarray) -> None:
        """The classes of one image."""
        height, width = mask.shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": image_name, "height": height, "width": width})
        for k, part, (x, y) in cropped(mask, self.labels):
            runs = plane_to_runs(class_plane(mask, self.labels, k))
            self.annotations.append({
                "id": len(self.annotations) + 1, "image_id": number, "category_id": k + 1, "iscrowd": 0,
                "area": int(part.sum()), "bbox": [x, y, part.shape[1], part.shape[0]],
                "segmentation": {"size": [height, width], "counts": write_counts(runs)},
            })  # fmt: skip

    def close(self) -> None:
        """Write the file, whole or not at all.  Raises InputError."""
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.labels.names)]
        write_json(
            self.path, {"images": self.images, "categories": categories, "annotations": self.annotations}
        )
