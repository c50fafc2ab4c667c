"""What the pixels of label maps mean, and of those of validation."""
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmvssd.datasets.formats import FORMATS, Tree, recognize
from mmvssd.datasets.formats.pixels import read_pixels
from mmvssd.engine.data.findings import STOP, WARN, Findings
from mmvssd.errors import DataError

FILE = Path(__file__).parents[2] / 'new_recipe' / 'made_data.py'
spec = importlib.util.spec_from_file_location('made_data', FILE)
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


def write(root, *halves, ending='.png'):
    """Write an image, and a label map of two values for each pair."""
    for index, pair in enumerate(halves):
        made.picture(root / 'images' / f'{index}.jpg')
        pixels = np.repeat(np.array(pair, np.uint8), 24, axis=0)
        pixels = np.broadcast_to(pixels.reshape(48, 1, *pixels.shape[1:]),
                                 (48, 64, *pixels.shape[1:]))
        (root / 'masks').mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / 'masks' / f'{index}{ending}')


def read(root, **options):
    tree, findings = Tree(root), Findings()
    form = FORMATS['label_maps']
    return form.read(tree, form.find(tree), findings, **options), list(map(
        str, findings.of(STOP)))


def both(root, **options):
    """What is read of training and validation, the faults of both, and whether they agree."""
    train, faults = read(root / 'train', **options)
    val, more = read(root / 'val', classes=train.classes, like=train)
    return train, val, faults + more, (train.recoding, train.ignore_zero) == (
        val.recoding, val.ignore_zero)


@pytest.mark.parametrize(('names', 'values'), [
    (None, {0, 1}), (['a', 'b'], {0, 1}), (['b'], {0, 1}), (['road', 'car', 'tree'], {0})])
def test_white_is_a_class_of_two(names, values, tmp_path):
    """Of more named classes it is what is not labelled."""
    write(tmp_path, (0, 255))
    data, faults = read(tmp_path, classes=names)
    assert not faults
    assert data.items[0].values == values


@pytest.mark.parametrize(('train', 'val'), [
    ([(0, 1), (2, 255)], [(0, 255)]), ([(0, 1), (2, 2)], [(0, 255)]),
    ([((0, 0, 0), (1, 1, 1)), ((2, 2, 2), (2, 2, 2))], [((0, 0, 0), (255, 255, 255))]),
    ([(1, 2), (3, 3)], [(0, 255), (1, 1)])])
def test_validation_is_read_as_training_is(train, val, tmp_path):
    write(tmp_path / 'train', *train)
    write(tmp_path / 'val', *val)
    _, read_val, faults, agree = both(tmp_path)
    assert not faults
    assert agree
    assert set().union(*(item.values for item in read_val.items)) == {0}


@pytest.mark.parametrize(('train', 'val'), [((0, 255), (7, 243)), ((3, 250), (20, 231))])
def test_black_and_white_that_compression_changed(train, val, tmp_path):
    """Shades of validation need not be those of training."""
    write(tmp_path / 'train', train, train[::-1], ending='.jpg')
    write(tmp_path / 'val', val, ending='.jpg')
    _, read_val, faults, agree = both(tmp_path)
    assert not faults
    assert agree
    item = read_val.items[0]
    assert item.values == {0, 1}
    numbers = read_val.recoding.apply(item.label_map)
    assert (numbers[:24] == 0).all()
    assert (numbers[24:] == 1).all()


def test_other_values_of_validation_are_a_fault(tmp_path):
    """Neither shades between black and white, nor others of a file that keeps values."""
    for number, (val, ending) in enumerate((((0, 128), '.jpg'), ((0, 254), '.png'))):
        write(tmp_path / str(number) / 'train', (0, 255))
        write(tmp_path / str(number) / 'val', val, ending=ending)
        _, _, faults, _ = both(tmp_path / str(number))
        assert 'values that those of training lack' in ''.join(faults)


@pytest.mark.parametrize('value', [299, 256, 255, 254])
def test_numbers_beyond_8_bits(value, tmp_path):
    write(tmp_path, (0, 1))
    pixels = np.full((48, 64), value, np.uint16)
    Image.fromarray(pixels).save(tmp_path / 'masks' / '0.png')
    _, faults = read(tmp_path, classes=[f'c{index}' for index in range(300)])
    assert ['values beyond 255' in fault for fault in faults] == [True] * (value > 255)


@pytest.mark.parametrize('value', [0.5, np.nan, np.inf])
def test_values_are_whole_numbers(value, tmp_path):
    write(tmp_path, (0, 1), (0, 1))
    (tmp_path / 'masks' / '0.png').unlink()
    Image.fromarray(np.full((48, 64), value, np.float32)).save(tmp_path / 'masks' / '0.tif')
    _, (fault, ) = read(tmp_path)
    assert '1 label map has values that are not whole numbers' in fault
    assert '0.tif' in fault


@pytest.mark.parametrize('mode', [
    '1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'I', 'I;16', 'F', 'CMYK'])
def test_every_mode_of_an_image_has_the_same_numbers(mode, tmp_path):
    numbers = np.repeat(np.array([[0, 1, 0], [1, 0, 0]], np.uint8), 20, axis=1).repeat(24, axis=0)
    made.picture(tmp_path / 'images' / '0.jpg', (60, 48))
    (tmp_path / 'masks').mkdir()
    grey = Image.fromarray(numbers)
    image = {'1': lambda: Image.fromarray(numbers * 255).convert('1'),
             'P': lambda: made_palette(grey), 'PA': lambda: made_palette(grey).convert('PA'),
             'I;16': lambda: Image.fromarray(numbers.astype(np.uint16)),
             'CMYK': lambda: Image.fromarray(numbers * 255).convert('RGB').convert('CMYK'),
             }.get(mode, lambda: grey.convert(mode))()
    assert image.mode == mode
    image.save(tmp_path / 'masks' / '0.tif')
    assert not doubts(tmp_path)
    data, faults = read(tmp_path)
    assert not faults
    assert len(data.classes) == 2
    item, = data.items
    read_numbers = (read_pixels(item.label_map, False) if data.recoding is None
                    else data.recoding.apply(item.label_map))
    assert (read_numbers == numbers).all()


def made_palette(grey):
    image = Image.frombytes('P', grey.size, grey.tobytes())
    image.putpalette([0, 0, 0, 200, 0, 0])
    return image


@pytest.mark.parametrize('mode', ['LA', 'RGBA'])
def test_classes_that_only_transparency_tells_apart(mode, tmp_path):
    """Colours that are stored beneath transparent pixels may all be the same."""
    write(tmp_path, (0, 0))
    image = Image.new(mode, (64, 48), 'white')
    image.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (48, 32))))
    image.save(tmp_path / 'masks' / '0.png')
    tree, findings = Tree(tmp_path), Findings()
    form = FORMATS['label_maps']
    form.read(tree, form.find(tree), findings)
    assert 'only the value 255, and segmentation needs two classes' in findings.text()
    assert '1 label map has transparent pixels' in findings.text()


def test_one_colour_is_no_two_classes(tmp_path):
    write(tmp_path, ((9, 0, 0), (9, 0, 0)))
    _, (fault, ) = read(tmp_path)
    assert 'only the colour #090000' in fault


def doubts(root):
    """Return what is doubtful of label maps."""
    tree, findings = Tree(root), Findings()
    form = FORMATS['label_maps']
    form.read(tree, form.find(tree), findings)
    assert not findings.of(STOP)
    return list(map(str, findings.of(WARN)))


def test_few_values_of_a_jpeg_file_are_doubtful(tmp_path):
    write(tmp_path, (0, 1), (2, 2), ending='.jpg')
    assert any('JPEG files, which do not keep values: 0, 1, 2' in text for text in doubts(tmp_path))
    write(tmp_path / 'png', (0, 1), (2, 2))
    assert not doubts(tmp_path / 'png')


def test_images_without_a_label_map_beside_others_with_one(tmp_path):
    """Those of a folder without any are images to predict on."""
    write(tmp_path, (0, 1), (1, 0))
    made.picture(tmp_path / 'others' / 'b.jpg')
    assert not doubts(tmp_path)
    made.picture(tmp_path / 'images' / 'a.jpg')
    text, = doubts(tmp_path)
    assert '1 image has no label map' in text
    assert 'images/a.jpg' in text


def moved(root, images, masks, suffix='{}'):
    """Write four images with label maps into folders of these names."""
    made_in = root.parent / f'{root.name}-made'
    write(made_in, *[(0, 1)] * 4)
    for folder, name, ending in (('images', images, '{}'), ('masks', masks, suffix)):
        (root / name).mkdir(parents=True)
        for file in sorted((made_in / folder).iterdir()):
            file.rename(root / name / (ending.format(file.stem) + file.suffix))


@pytest.mark.parametrize(('images', 'masks', 'suffix'), [
    ('X-rays', 'masks', '{}'), ('X-rays', 'masks', '{}_mask'),
    ('photos', 'annotations/trimaps', '{}'), ('train/rgb', 'train/semantic_labels', '{}')])
def test_label_maps_in_folders_of_other_words(images, masks, suffix, tmp_path):
    """One image of a name and one label map of it are a pair, whatever their folders are called."""
    moved(tmp_path, images, masks, suffix)
    if images.startswith('train'):
        moved(tmp_path / 'val', 'rgb', 'labels')
    name, found = recognize(Tree(tmp_path))
    assert name == 'label_maps'
    assert f'{8 if images.startswith("train") else 4} images have a label map' in found.reason


def test_photographs_of_masks_are_no_label_maps(tmp_path):
    """Classes may be called mask and none, with images of the same names."""
    for folder in ('mask', 'none'):
        for index in range(3):
            made.picture(tmp_path / folder / f'{index}.jpg')
    assert recognize(Tree(tmp_path))[0] == 'class_folders'


def test_cityscapes_folders_are_no_classes(tmp_path):
    moved(tmp_path, 'leftImg8bit', 'gtFine', '{}_gtFine_labelIds')
    with pytest.raises(DataError, match='has no label map that ends with _gtFine_labelTrainIds'):
        recognize(Tree(tmp_path))


def test_too_many_colours_are_one_fault(tmp_path):
    write(tmp_path, (0, 1), (1, 0))
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for file in (tmp_path / 'masks').iterdir():
        Image.fromarray(noise).save(file)
    _, faults = read(tmp_path)
    assert len(faults) == 1
    assert 'as PNG' in faults[0]
