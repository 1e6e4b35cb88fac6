"""Fixtures that every suite shares."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the repository; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}: put the folder there to run this test")
    return SHARED_DATA


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder data set: ten grey 48×40 images of a disc (1) and a square (2) on background."""
    return write_shapes(tmp_path / "shapes", 10)


def write_shapes(root: Path, count: int) -> Path:
    """Images and index masks of a disc and a square at random places, with classes.txt."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("0 background\n1 disc #ff0000\n2 square #00ff00\n")
    for i in range(count):
        mask = np.zeros((48, 40), np.uint8)
        x, y = int(rng.integers(8, 18)), int(rng.integers(8, 18))
        cv2.circle(mask, (x, y), 6, 1, -1)
        cv2.rectangle(mask, (x + 10, y + 14), (x + 18, y + 24), 2, -1)
        image = (np.array([20, 120, 220])[mask] + rng.integers(0, 20, mask.shape)).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{i:02d}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{i:02d}.png"), mask)
    return root
