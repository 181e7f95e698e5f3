"""Real photos: the 20 ImageNet images that come with PyPI's foolbox, as an ImageNet tree."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mindspore_thor.data import create_data


def sample_photos() -> list[Path]:
    """Find the photos of an installed foolbox without importing it (it needs PyTorch)."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        return []
    return sorted((Path(spec.submodule_search_locations[0]) / "data").glob("imagenet_*_*.jpg"))


PHOTOS = sample_photos()
pytestmark = pytest.mark.skipif(
    len(PHOTOS) != 20, reason="foolbox's photos are not there: pip install --no-deps foolbox==3.3.4"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for photo in PHOTOS:
        found = re.fullmatch(r"imagenet_\d+_(\d+)\.jpg", photo.name)
        assert found
        for split in ("train", "val"):
            folder = root / split / f"class{int(found[1]):04}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder)
    return root


def test_labels_and_pixels(tree: Path) -> None:
    numbers = [int(photo.stem.split("_")[-1]) for photo in PHOTOS]
    classes = sorted(set(numbers))
    data = create_data("imagenet", tree, train=False, batch_size=8)
    assert (data.size, data.num_classes) == (20, len(classes))
    batches = [(x.asnumpy(), y.asnumpy()) for x, y in data.epoch(0)]
    assert [x.shape for x, _ in batches] == [(8, 3, 224, 224)] * 2 + [(4, 3, 224, 224)]
    labels = np.concatenate([y for _, y in batches])
    assert labels.tolist() == sorted(classes.index(number) for number in numbers)
    # Photos, normalised: no channel is constant or outside what bytes can give.
    images = np.concatenate([x for x, _ in batches])
    assert images.min() >= -0.485 / 0.229 - 1e-5 and images.max() <= (1 - 0.406) / 0.225 + 1e-5
    assert images.std((2, 3)).min() > 0.05


def test_training_is_repeatable(tree: Path) -> None:
    first, second = (
        create_data("imagenet", tree, train=True, batch_size=8, seed=1, num_workers=workers)
        for workers in (1, 2)
    )
    assert len(first) == 2
    whole = [(x.asnumpy().copy(), y.asnumpy().copy()) for x, y in first.epoch(2)]
    ((images, labels),) = [(x.asnumpy(), y.asnumpy()) for x, y in second.epoch(2, 1)]
    np.testing.assert_array_equal(images, whole[1][0])
    np.testing.assert_array_equal(labels, whole[1][1])
