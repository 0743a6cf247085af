import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from zoo.datamodules.files import crops
from zoo.datamodules.files.crops import Box, center_box, cut, decode_box, decode_whole, random_box, uniforms


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth areas with some noise."""
    generator = np.random.default_rng(seed)
    smooth = Image.fromarray(generator.integers(0, 256, (height // 16, width // 16, 3), np.uint8)).resize((width, height))
    noisy = np.asarray(smooth) + generator.normal(0, 4, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("height", "width", "min_scale"), [(375, 500, 0.08), (500, 375, 0.35), (100, 1000, 0.08)])
def test_boxes_are_distributed_as_torchvisions(height, width, min_scale):
    count = 10_000
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    theirs = [RandomResizedCrop.get_params(image, (min_scale, 1.0), (3 / 4, 4 / 3)) for _ in range(count)]
    ours = [random_box(height, width, min_scale, draws) for draws in uniforms(3, torch.arange(count)).tolist()]
    for name, our, their in zip(Box._fields, zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        assert ks_2samp(our, their).pvalue > 1e-3, name
    area, ratio = (np.prod(np.array(each)[:, 2:], 1) for each in (ours, theirs))
    assert ks_2samp(area, ratio).pvalue > 1e-3


def test_uniforms_depend_on_seed_and_index_alone():
    all_at_once = uniforms(5, torch.arange(100))
    assert np.array_equal(all_at_once[[7, 3]], uniforms(5, torch.tensor([7, 3])))
    assert len(np.unique(np.concatenate([all_at_once, uniforms(6, torch.arange(100))]))) == 200 * crops.DRAWS
    assert ks_2samp(all_at_once.ravel(), np.linspace(0, 1, 2301)).pvalue > 1e-3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_box_is_cut_and_resized_as_pillow_does(interpolation):
    image = photograph(375, 500)
    pixels = np.array(image)
    for draws in uniforms(0, torch.arange(20)).tolist():
        top, left, height, width = box = random_box(375, 500, 0.08, draws)
        part = image.crop((left, top, left + width, top + height))
        expected = part.resize((224, 200), Image.Resampling[interpolation.upper()])
        found = cut(pixels, box, (200, 224), interpolation)
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [Box(0, 0, 60, 70), Box(5, 11, 50, 40), Box(7, 3, 1, 1)])
def test_a_flipped_box_is_mirrored(box, channels):
    image = np.random.default_rng(0).integers(0, 256, (60, 70, channels), np.uint8)
    plain, flipped = (cut(image, box, (50, 40), flip=flip) for flip in (False, True))
    assert np.abs(flipped.astype(int) - plain[:, ::-1]).max() <= 1  # of the rounding of weights
    assert box[2:] != (50, 40) or np.array_equal(plain, image[5:55, 11:51]) and np.array_equal(flipped, plain[:, ::-1])


def test_the_center_box_has_the_proportions():
    assert center_box(300, 500, 1) == (0, 100, 300, 300)
    assert center_box(300, 500, 2) == (25, 0, 250, 500)
    assert center_box(1, 1000, 1) == (0, 499, 1, 1)


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch) -> None:
    if request.param == "Pillow":
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    else:
        pytest.importorskip("simplejpeg")


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize(
    ("name", "options"),
    [("a.jpg", {}), ("gray.jpg", {}), ("progressive.jpg", {"progressive": True}), ("cmyk.jpg", {}), ("a.png", {}), ("p.gif", {})],
)
def test_a_whole_image_is_decoded_as_by_pillow(tmp_path, name, options):
    modes = {"gray.jpg": "L", "cmyk.jpg": "CMYK", "p.gif": "P"}
    path = tmp_path / name
    photograph(60, 80).convert(modes.get(name, "RGB")).save(path, **options)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode_whole(str(path), 100), expected)
    box = decode_box(str(path), lambda height, width: Box(10, 20, 40, 30), (40, 30), "bilinear")
    assert np.array_equal(box, expected[10:50, 20:50])


@pytest.mark.parametrize(("shape", "stored"), [((150, 200), (60, 80)), ((40, 50), (40, 50)), ((32, 1600), (14, 710))])
def test_a_stored_image_keeps_its_proportions(tmp_path, shape, stored):
    path = tmp_path / "a.png"
    photograph(*shape).save(path)
    assert decode_whole(str(path), 60 if shape[1] < 1000 else 71).shape == (*stored, 3)


@pytest.mark.parametrize("turned", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, turned):
    path, image = tmp_path / "a.jpg", photograph(800, 1200)
    exif = Image.Exif()
    exif[0x0112] = turned
    image.save(path, quality=95, exif=exif)
    upright = image if turned == 1 else image.transpose(Image.Transpose.ROTATE_270)
    top, left, height, width = box = Box(100, 200, 480, 500)
    part = upright.crop((left, top, left + width, top + height))
    found = decode_box(str(path), lambda *size: box, (60, 50), "bilinear")
    assert np.abs(found.astype(int) - np.asarray(part.resize((50, 60), Image.Resampling.BILINEAR))).mean() < 1.5
    whole = decode_whole(str(path), 100)
    assert whole.shape == ((100, 150, 3) if turned == 1 else (150, 100, 3))
    assert np.abs(whole.astype(int) - np.asarray(upright.resize(whole.shape[1::-1], Image.Resampling.BILINEAR))).mean() < 1.5


@pytest.mark.usefixtures("decoder")
def test_a_truncated_jpeg_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    photograph(60, 80).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with warnings.catch_warnings(), pytest.raises(OSError, match="truncated"):
        warnings.simplefilter("error")
        decode_whole(str(path), 100)
