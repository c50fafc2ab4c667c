"""Writes the sample data: one set of pictures in the formats of COCO, ADE20K and ImageNet."""
import json
import operator
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

import cv2
import numpy as np
from filelock import FileLock, Timeout
from mmengine.logging import print_log
from pycocotools import mask as coco_mask
from rich.progress import Progress

from mmvssd.datasets.scenes import BACKGROUND, Digits, Scene, draw_scene, load_digits

CLASSES = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
SEG_CLASSES = ('background', *CLASSES)
# One RGB colour for each of SEG_CLASSES; those of CLASSES are PALETTE[1:].
PALETTE = [
    (60, 60, 60), (230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 99, 216), (245, 130, 49),
    (145, 30, 180), (66, 212, 244), (240, 50, 230), (191, 239, 69), (250, 190, 212),
]

GENERATOR_VERSION = 1  # raise it with every change of what is drawn or written
_METADATA = 'metadata.json'
_SPLITS = ('train', 'val')
_SCENE, _CROP = 0, 1  # keep the random streams of the two kinds apart

_DIGITS_PER_SCENE = (2, 6)
_SCENE_SIZES = (24, 64)  # pixels, the longer side of a digit
_CROP_SIZES = (0.55, 0.9)  # of the crop's side
_MIN_IMAGE_SIZE = 96  # 1.5 times the largest digit, so that a second one fits beside or over it
_MIN_CROP_SIZE = 32  # the smallest digit then has 17 pixels, twice what was scanned
_JPEG_QUALITY = 85


def make_sample_data(
    root: Union[str, Path],
    *,
    num_scenes: tuple[int, int] = (600, 100),
    num_crops: tuple[int, int] = (3000, 500),
    image_size: int = 128,
    crop_size: int = 64,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Make scenes of handwritten digits in the formats of COCO, ADE20K and ImageNet.

    The training and the validation pictures show digits of different writers. The same arguments
    give the same bytes with the same versions of NumPy and OpenCV. A root that already holds what
    is asked for is left as it is. The root appears complete or not at all; of processes that make
    the same root at once, one works and the others wait for it::

        root/coco/annotations/instances_{train,val}2017.json, root/coco/{train,val}2017/*.jpg
            ``CLASSES`` as categories 1 to 10; boxes and RLE masks of the visible part
        root/ade20k/{images,annotations}/{training,validation}
            the same scenes; labels are 1 + index in ``SEG_CLASSES``, 0 a rim of one pixel around
            the digits that is not to be learnt (``reduce_zero_label=True`` makes it 255)
        root/imagenet/{train,val}/<class>/*.jpg, root/imagenet/meta/{train,val}.txt
            crops of one digit. The lists under meta give labels in the order of ``CLASSES``; a
            dataset that numbers the folders itself sorts them by name
        root/metadata.json
            the arguments; it tells a later call what is there

    Args:
        root: the folder to make.
        num_scenes: scenes for training and for validation, each at least 1.
        num_crops: crops for training and for validation, each at least 1, the classes by turns.
        image_size: the shorter side of a scene in pixels, at least 96. Half of the scenes are
            square, the others 5:4 or 4:5.
        crop_size: the side of a crop in pixels, at least 32.
        seed: at least 0. A scene or crop depends on it, the size and its own number, not on the
            counts: a larger set begins with the smaller one.
        overwrite: whether to replace sample data made with other arguments.
        progress: whether to show a progress bar.

    Returns:
        The root, absolute.

    Raises:
        ValueError: an argument does not fit; the message names it.
        FileExistsError: the root holds something else, and ``overwrite`` is False or what is there
            is no sample data.
        OSError: the root cannot be written.
    """
    wanted = {
        'generator_version': GENERATOR_VERSION,
        'seed': _integer('seed', seed, least=0),
        'num_scenes': _pair('num_scenes', num_scenes),
        'num_crops': _pair('num_crops', num_crops),
        'image_size': _integer('image_size', image_size, least=_MIN_IMAGE_SIZE),
        'crop_size': _integer('crop_size', crop_size, least=_MIN_CROP_SIZE),
        'classes': list(CLASSES),
    }
    root = Path(root).expanduser().resolve()
    if _is_made(root, wanted, overwrite):  # before the lock: a root may be shared read-only
        return root
    with _locked(root):
        if _is_made(root, wanted, overwrite):
            return root
        with _staged(root) as stage, Progress(disable=not progress) as bar:
            for split in _SPLITS:
                digits = load_digits(split)
                _write_scenes(stage, split, digits, wanted, bar)
                _write_crops(stage / 'imagenet', split, digits, wanted, bar)
            (stage / _METADATA).write_text(json.dumps(wanted, indent=2) + '\n')
    print_log(f'The sample data is in {root}.', 'current')
    return root


def _integer(name: str, value: Any, least: int) -> int:
    """The value as an int, or ValueError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise ValueError(f'{name} is {value!r}; it has to be a whole number of at least {least}')
    return number


def _pair(name: str, values: object) -> list[int]:
    """Return the (training, validation) counts as a list, or raise ValueError."""
    if not isinstance(values, (tuple, list)) or len(values) != len(_SPLITS):
        raise ValueError(f'{name} is {values!r}; it has to be two counts, (training, validation)')
    return [_integer(f'{name}[{i}]', value, least=1) for i, value in enumerate(values)]


def _is_made(root: Path, wanted: dict, overwrite: bool) -> bool:
    """Tell if the root holds just what is wanted; FileExistsError if it may not be replaced."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    there = _read_metadata(root)
    if there is None:
        # Never overwritten: a mistyped root must not cost anyone their data.
        raise FileExistsError(
            f'{root} exists and is not sample data (it has no {_METADATA} of this generator); '
            'move it away or give another root')
    if there == wanted:
        print_log(f'The sample data in {root} is already what is asked for.', 'current')
        return True
    if not overwrite:
        differing = [key for key in wanted if there.get(key) != wanted[key]]
        raise FileExistsError(
            f'{root} holds other sample data: '
            + ', '.join(f'{key} is {there.get(key)}, asked for {wanted[key]}' for key in differing)
            + '; give another root, or replace it with overwrite=True (--force)')
    return False


def _read_metadata(root: Path) -> Optional[dict]:
    """Read what a folder was made with, None if that cannot be read."""
    try:
        metadata = json.loads((root / _METADATA).read_text())
    except (OSError, ValueError):
        return None
    return metadata if isinstance(metadata, dict) and 'generator_version' in metadata else None


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Let one process at a time make a root. The lock dies with its process."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root.parent / f'.{root.name}.lock')
        # where no file can be made, some file systems would have the lock wait for ever
        Path(lock.lock_file).touch()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print_log(f'Another process is making {root}: waiting for it.', 'current')
            lock.acquire()
    except OSError as error:
        raise OSError(
            error.errno, f'cannot write {root} ({error.strerror}); give another root') from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _staged(root: Path) -> Iterator[Path]:
    """Yield a folder beside the root that becomes the root at the end, or goes on an error.

    Under the lock, what a killed run left behind is nobody's any more.
    """
    stage, replaced = (root.parent / f'.{root.name}.{kind}' for kind in ('partial', 'replaced'))
    for leftover in (stage, replaced):
        if leftover.exists():
            print_log(f'Removing {leftover}, left by a run that was killed.', 'current')
            shutil.rmtree(leftover)
    stage.mkdir()
    try:
        yield stage
        if root.exists():
            root.rename(replaced)
        try:
            stage.rename(root)
        except OSError:
            if replaced.exists():
                replaced.rename(root)
            raise
    finally:
        for folder in (stage, replaced):
            shutil.rmtree(folder, ignore_errors=True)


def _write_scenes(stage: Path, split: str, digits: Digits, wanted: dict, bar: Progress) -> None:
    """Draw the scenes of a split and write them under coco/ and ade20k/."""
    which = _SPLITS.index(split)
    count, size = wanted['num_scenes'][which], wanted['image_size']
    first_id = 1 if split == 'train' else wanted['num_scenes'][0] + 1
    coco_images = _folder(stage / 'coco' / f'{split}2017')
    ade_split = {'train': 'training', 'val': 'validation'}[split]
    ade_images = _folder(stage / 'ade20k' / 'images' / ade_split)
    ade_labels = _folder(stage / 'ade20k' / 'annotations' / ade_split)

    images, annotations = [], []
    for i in bar.track(range(count), description=f'scenes, {split}'):
        rng = np.random.default_rng([wanted['seed'], _SCENE, which, i])
        long = round(1.25 * size)
        shape = ((size, size), (size, size), (size, long), (long, size))[rng.integers(4)]
        number = rng.integers(_DIGITS_PER_SCENE[0], _DIGITS_PER_SCENE[1] + 1)
        picks = rng.integers(len(digits.labels), size=number)
        scene = draw_scene(digits, picks, shape, _SCENE_SIZES, rng)

        jpeg = _encode(scene.image)
        image_id, name = first_id + i, f'ADE_{split}_{i + 1:08d}'
        (coco_images / f'{image_id:012d}.jpg').write_bytes(jpeg)
        (ade_images / f'{name}.jpg').write_bytes(jpeg)
        png = cv2.imencode('.png', _label_map(scene))[1]
        (ade_labels / f'{name}.png').write_bytes(png.tobytes())
        images.append({'id': image_id, 'file_name': f'{image_id:012d}.jpg', 'height': shape[0],
                       'width': shape[1], 'license': 1})
        annotations += _coco_annotations(scene, image_id, len(annotations) + 1)

    coco = _coco_header() | {'images': images, 'annotations': annotations}
    path = _folder(stage / 'coco' / 'annotations') / f'instances_{split}2017.json'
    path.write_text(json.dumps(coco))


def _write_crops(root: Path, split: str, digits: Digits, wanted: dict, bar: Progress) -> None:
    """Draw the crops of a split and write them as root/<split>/<class>/, with their list."""
    which = _SPLITS.index(split)
    count, side = wanted['num_crops'][which], wanted['crop_size']
    of_class = [np.flatnonzero(digits.labels == label) for label in range(len(CLASSES))]
    # All of them, as a host counts the folders to learn the number of classes.
    folders = [_folder(root / split / name) for name in CLASSES]
    lines = []
    for i in bar.track(range(count), description=f'crops, {split}'):
        rng = np.random.default_rng([wanted['seed'], _CROP, which, i])
        label = i % len(CLASSES)
        pick = rng.choice(of_class[label])
        sizes = tuple(fraction * side for fraction in _CROP_SIZES)
        crop = draw_scene(digits, [pick], (side, side), sizes, rng)
        name = f'{CLASSES[label]}_{digits.sources[pick]:04d}_{i + 1:06d}.jpg'
        (folders[label] / name).write_bytes(_encode(crop.image))
        lines.append(f'{CLASSES[label]}/{name} {label}\n')
    (_folder(root / 'meta') / f'{split}.txt').write_text(''.join(lines))


def _folder(path: Path) -> Path:
    """Make the folder, and return its path."""
    path.mkdir(parents=True, exist_ok=True)
    return path


def _encode(image: np.ndarray) -> bytes:
    """Encode an RGB picture as a JPEG file."""
    bgr = np.ascontiguousarray(image[..., ::-1])
    return cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()


def _label_map(scene: Scene) -> np.ndarray:
    """ADE20K labels (H, W) uint8: 1 + index in SEG_CLASSES, 0 on ground that touches a digit.

    There, the edge's pixels mix the two colours.
    """
    seg_labels = np.array([*(label + 2 for label in scene.labels), 1], np.uint8)
    labels = seg_labels[scene.owner]  # BACKGROUND, -1, picks the last
    ink = (scene.owner != BACKGROUND).astype(np.uint8)
    labels[(cv2.dilate(ink, np.ones((3, 3), np.uint8)) > ink)] = 0
    return labels


def _coco_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    """Return one COCO annotation for each digit, of its visible part."""
    annotations = []
    for i, (label, source) in enumerate(zip(scene.labels, scene.sources)):
        rle = coco_mask.encode(np.asfortranarray(scene.owner == i, dtype=np.uint8))
        annotations.append({
            'id': first_id + i,
            'image_id': image_id,
            'category_id': label + 1,
            'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode('ascii')},
            'area': int(coco_mask.area(rle)),
            'bbox': coco_mask.toBbox(rle).tolist(),
            'iscrowd': 0,
            'source': source,  # not COCO's: the digit's row in scikit-learn's set
        })
    return annotations


def _coco_header() -> dict:
    """Head of a COCO file."""
    return {
        'info': {
            'description': 'Scenes of handwritten digits, made by mmvssd from the UCI set '
                           'Optical Recognition of Handwritten Digits as in scikit-learn',
            'version': str(GENERATOR_VERSION),
        },
        'licenses': [{'id': 1, 'name': 'Creative Commons Attribution 4.0 International',
                      'url': 'https://creativecommons.org/licenses/by/4.0/'}],
        'categories': [{'id': i + 1, 'name': name, 'supercategory': 'digit'}
                       for i, name in enumerate(CLASSES)],
    }
