"""Small data sets in public layouts, written where a test wants them; nothing here is fetched."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (20, 28)  # of every image


def photograph(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    """Coloured noise, as a JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), noise)


def index_mask(values: list[int], seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks of each of the values."""
    rng = np.random.default_rng(seed)
    coarse = rng.permutation(np.resize(np.array(values, np.uint8), (size[0] // 4) * (size[1] // 4)))
    return np.kron(coarse.reshape(size[0] // 4, size[1] // 4), np.ones((4, 4), np.uint8))


def save_mask(path: Path, mask: np.ndarray, palette: bytes = b"") -> None:
    """A grey PNG, or with a palette one of places in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask)
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def write_voc(root: Path, palette: bytes, train: int = 3, val: int = 2) -> dict[str, np.ndarray]:
    """PASCAL VOC 2012 below `root`; the masks by name."""
    base = root / "VOCdevkit" / "VOC2012"
    names = {"train": [f"2007_{i:06d}" for i in range(train)], "val": [f"2008_{i:06d}" for i in range(val)]}
    masks = {}
    for split, of_split in names.items():
        listing = base / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{name}\n" for name in of_split))
        for seed, name in enumerate(of_split):
            masks[name] = index_mask([0, 0, 1 + seed, 15, 20, 255], seed)
            photograph(base / "JPEGImages" / f"{name}.jpg", seed)
            save_mask(base / "SegmentationClass" / f"{name}.png", masks[name], palette)
    return masks


def write_pets(root: Path, train: int = 3, val: int = 2) -> dict[str, np.ndarray]:
    """The Oxford-IIIT Pet set below `root`; the trimaps by name."""
    base = root / "oxford-iiit-pet"
    masks = {}
    for split, breed, count in (("trainval", "Abyssinian", train), ("test", "yorkshire_terrier", val)):
        names = [f"{breed}_{i}" for i in range(count)]
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
        for seed, name in enumerate(names):
            masks[name] = index_mask([1, 1, 2, 2, 3], seed)
            photograph(base / "images" / f"{name}.jpg", seed)
            save_mask(base / "annotations" / "trimaps" / f"{name}.png", masks[name])
    return masks


def write_cityscapes(root: Path, train: int = 3, val: int = 2) -> dict[str, np.ndarray]:
    """Cityscapes with fine annotations below `root`; the masks of ids by name."""
    masks = {}
    for split, cities, count in (("train", ("ulm", "aachen"), train), ("val", ("lindau",), val)):
        for i in range(count):
            city = cities[i % len(cities)]
            name = f"{city}_{i:06d}_000019"
            masks[name] = index_mask([*range(i, 34), 255], i)
            photograph(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", i)
            save_mask(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", masks[name])
    return masks


def coco_json(names: list[str], **changes: object) -> dict:
    """A COCO object: three categories out of order, overlapping polygons in all images but the last, a crowd
    in the first."""
    images = [
        {"id": 10 + i, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for i, name in enumerate(names)
    ]
    annotations: list[dict] = []
    for image in images[:-1]:
        square, triangle = [2, 2, 12, 2, 12, 12, 2, 12], [8, 8, 20, 8, 8, 18]
        annotations += [
            {"image_id": image["id"], "category_id": 7, "segmentation": [square], "iscrowd": 0},
            {"image_id": image["id"], "category_id": 3, "segmentation": [triangle], "iscrowd": 0},
        ]
    crowd = {"counts": [400, 25, 5, 30, 100], "size": [*SIZE]}
    annotations.append({"image_id": 10, "category_id": 90, "segmentation": crowd, "iscrowd": 1})
    for number, annotation in enumerate(annotations):
        annotation |= {"id": number + 1, "area": 1.0, "bbox": [0, 0, 1, 1]}
    categories = [
        {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
        {"id": 3, "name": "car", "supercategory": "vehicle"},
        {"id": 7, "name": "traffic light", "supercategory": "outdoor"},
    ]
    return {"info": {}, "licenses": [], "images": images, "categories": categories,
            "annotations": annotations, **changes}  # fmt: skip


def write_coco(root: Path, part: str = "train", count: int = 4) -> str:
    """`coco_json` and its images below `root`; what stands behind `coco-polygons:`."""
    names = [f"{part}/{i:012d}.jpg" for i in range(count)]
    for seed, name in enumerate(names):
        photograph(root / "images" / name, seed)
    path = root / f"{part}.json"
    path.write_text(json.dumps(coco_json(names)))
    return f"{path}+{root / 'images'}"
