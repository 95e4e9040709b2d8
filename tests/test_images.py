"""Images are what they are labelled, in the layout promised; labels are as noisy as asked."""

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from llc.config import ConfigError
from llc.data import load_images, noisy_labels
from llc.vision import torchvision

SIGMAS = 5  # false-fail 6e-7 a comparison
PER_FILE = 3


def write_batch(file, pixels, labels):
    """One file as CIFAR-10 has them: rows of 1024 reds, greens, blues; NumPy by its old name."""
    batch = {"data": pixels, "labels": labels, "batch_label": file.name, "filenames": []}
    written = pickle.dumps(batch, protocol=2)
    file.write_bytes(written.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A data directory of a few random images, and what is in them; checksums are left out."""
    kind = torchvision().datasets.CIFAR10
    train = [name for name, _ in kind.train_list]
    monkeypatch.setattr(kind, "train_list", [[name, None] for name in train])
    monkeypatch.setattr(kind, "test_list", [["test_batch", None]])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    source = np.random.default_rng(0)
    pixels = source.integers(0, 256, (6 * PER_FILE, 3072), dtype=np.uint8)
    labels = source.integers(0, 10, 6 * PER_FILE).tolist()
    for i, name in enumerate([*train, "test_batch"]):
        rows = slice(i * PER_FILE, (i + 1) * PER_FILE)
        write_batch(folder / name, pixels[rows], labels[rows])
    names = {"label_names": [str(i) for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return tmp_path, pixels, labels


def check_layout(images):
    for inputs, labels in (images[:2], images[2:4]):
        assert inputs.shape == (len(labels), 3, 32, 32)
        assert (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert inputs.is_contiguous()
        assert inputs.min() == 0
        assert inputs.max() == 1
        assert labels.min() >= 0
        assert labels.max() < images.classes == 10


def test_digits():
    images = load_images("digits", "nowhere", download=False)
    check_layout(images)
    assert (len(images.train_labels), len(images.test_labels)) == (1500, 297)
    assert images.train_labels.unique().tolist() == list(range(10))
    inputs = torch.cat([images.train_inputs, images.test_inputs])
    assert torch.equal(inputs, inputs[:, :1].expand(-1, 3, -1, -1))
    # Bilinear resizing keeps the corners: all of them are there, in whatever order.
    small = load_digits()
    corners = {(0, 0): (0, 0), (0, -1): (0, -1), (-1, 0): (-1, 0), (-1, -1): (-1, -1)}
    for large, little in corners.items():
        found = inputs[(slice(None), 0, *large)].mul(16).sort().values
        expected = torch.from_numpy(small.images)[(slice(None), *little)].sort().values
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)


def test_digits_keep_their_labels():
    """Averaging the pixels back to 8×8 finds the original, and with it its label."""
    images = load_images("digits", "nowhere", download=False)
    small = load_digits()
    table = torch.from_numpy(small.images).float().flatten(1) / 16
    for inputs, labels in (images[:2], images[2:4]):
        shrunk = torch.nn.functional.avg_pool2d(inputs[:, 0], 4).flatten(1)
        nearest = torch.cdist(shrunk, table).argmin(1)
        share = (torch.from_numpy(small.target)[nearest] == labels).float().mean()
        assert share > 0.99


def test_the_split_is_always_the_same_and_leaves_nothing_out():
    one, two = (load_images("digits", where, download=False) for where in ("here", "there"))
    for a, b in zip(one[:4], two[:4], strict=True):
        assert torch.equal(a, b)
    counts = torch.bincount(torch.cat([one.train_labels, one.test_labels]))
    assert counts.tolist() == np.bincount(load_digits().target).tolist()


def test_cifar10(cifar10):
    data_dir, pixels, labels = cifar10
    for download in (False, True):  # all there: nothing to fetch
        images = load_images("cifar10", str(data_dir), download)
        assert images.train_inputs.is_contiguous()
        assert (images.train_inputs.dtype, images.train_labels.dtype) == (
            torch.float32,
            torch.int64,
        )
        inputs = torch.cat([images.train_inputs, images.test_inputs])
        expected = torch.from_numpy(pixels).view(-1, 3, 32, 32).float() / 255
        assert torch.equal(inputs, expected)
        assert len(images.train_inputs) == 5 * PER_FILE
        assert images.train_labels.tolist() + images.test_labels.tolist() == labels
        assert images.classes == 10


def test_without_cifar10_one_line_says_where_to_get_it(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_images("cifar10", str(tmp_path), download=False)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"model_data_config.data_dir='{tmp_path}': ")
    assert torchvision().datasets.CIFAR10.url in message
    assert torchvision().datasets.CIFAR10.base_folder in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_missing_or_broken_is_as_good_as_none(cifar10, monkeypatch):
    data_dir, *_ = cifar10
    kind = torchvision().datasets.CIFAR10
    monkeypatch.setattr(kind, "test_list", [["test_batch", "0" * 32]])
    with pytest.raises(ConfigError, match="not whole"):
        load_images("cifar10", str(data_dir), download=False)
    monkeypatch.setattr(kind, "test_list", [["test_batch_2", None]])
    with pytest.raises(ConfigError, match="not there"):
        load_images("cifar10", str(data_dir), download=False)


def test_a_failed_download_says_why(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no network")

    monkeypatch.setattr(torchvision().datasets.CIFAR10, "download", fail)
    with pytest.raises(ConfigError, match=r"could not be downloaded \(no network\): get https://"):
        load_images("cifar10", str(tmp_path), download=True)


def test_other_names_are_refused():
    with pytest.raises(ConfigError, match=r"data_name='mnist': must be one of digits, cifar10"):
        load_images("mnist", "nowhere", download=False)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.33, 1.0])
def test_label_noise(share):
    n, classes = 20_001, 10
    labels = torch.full((n,), 3)
    noisy = noisy_labels(labels, share, classes, torch.Generator().manual_seed(0))
    assert torch.equal(labels, torch.full((n,), 3))
    assert noisy.dtype == torch.int64
    count = round(share * n)
    # Uniform over all classes, the old one too.
    expected = torch.full((classes,), count / classes)
    expected[3] += n - count
    gap = (torch.bincount(noisy, minlength=classes) - expected).abs()
    assert (gap <= SIGMAS * math.sqrt(count * 0.09)).all()


def test_exactly_that_many_labels_are_redrawn_wherever_they_stand():
    n, share = 1000, 0.3
    moved = torch.zeros(n)
    for seed in range(200):
        source = torch.Generator().manual_seed(seed)
        noisy = noisy_labels(torch.full((n,), -1), share, 10, source)
        assert int((noisy >= 0).sum()) == 300
        moved += noisy >= 0
    # Binomial(200, 0.3) at each of 1000 places: 6 σ, normal tail 2e-9 a place.
    assert ((moved - 60).abs() < 6 * math.sqrt(200 * 0.21)).all()


def test_label_noise_follows_its_generator():
    labels = torch.arange(100) % 10
    one, same, other = (
        noisy_labels(labels, 0.5, 10, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
