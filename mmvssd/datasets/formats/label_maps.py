"""Segmentation data as a label map for each image, whatever its pixels hold."""
import math
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from mmvssd.datasets.formats.class_names import find_names
from mmvssd.datasets.formats.dividing import divide
from mmvssd.datasets.formats.records import SEGMENTATION, WHOLE, Data, Found, Item, Part
from mmvssd.datasets.formats.tree import Tree
from mmvssd.engine.data.file_facts import FileFacts, label_map
from mmvssd.engine.data.findings import Findings
from mmvssd.phrases import some

#: Words of names of folders that hold images, and label maps; words that say nothing.
IMAGE_WORDS = {'image', 'images', 'img', 'imgs', 'jpegimages', 'photo', 'photos', 'picture',
               'pictures', 'input', 'inputs'}
MAP_WORDS = {'mask', 'masks', 'label', 'labels', 'annotation', 'annotations', 'annot', 'ann',
             'anno', 'gt', 'groundtruth', 'segmentationclass', 'segmentation', 'segmentations',
             'labelmap', 'labelmaps', 'seg', 'trainannot', 'valannot', 'testannot'}
SILENT_WORDS = {'map', 'maps', 'dir', 'class', 'png', 'ground', 'truth'}
#: What a label map's name has beside its image's.
MAP_STEM = re.compile(r'[_-](mask|masks|label|labels|gt|seg|segmentation|labelmap)$', re.IGNORECASE)
#: Value and colour that are not labelled, by custom.
IGNORED, VOID = 255, 0xE0E0C0
#: Most values that stand for classes.
MOST_CLASSES = 255
#: Values of a JPEG file that stand for black and for white.
DARK, LIGHT = 50, 205
#: Share of the values up to the largest from which on they number classes.
DENSE = 0.5
#: Largest value that is never taken for a shade of grey.
SMALL = 16
LOSSY = ('.jpg', '.jpeg')


@dataclass
class Recoding:
    """Makes numbers of classes of a label map.

    Attributes:
        colours: Whether its pixels are colours, RRGGBB as one number; else values of one channel.
        table: Number of the class by value or colour; 255 is not labelled.
    """

    colours: bool
    table: Dict[int, int]

    def apply(self, file: Path) -> np.ndarray:
        """Return the numbers of classes (H, W) uint8 of a label map."""
        pixels = read_pixels(file, self.colours)
        stored, places = np.unique(pixels, return_inverse=True)
        numbers = np.array([self.table[int(value)] for value in stored], np.uint8)
        return numbers[places].reshape(pixels.shape)


def read_pixels(file: Path, colours: bool) -> np.ndarray:
    """Return a label map's pixels (H, W): values of its first channel, or colours as RRGGBB."""
    with Image.open(file) as image:
        if colours:
            red, green, blue = np.moveaxis(np.asarray(image.convert('RGB'), np.int64), -1, 0)
            return red << 16 | green << 8 | blue
        pixels = np.asarray(image)
    return (pixels[..., 0] if pixels.ndim == 3 else pixels).astype(np.int64)


def find(tree: Tree) -> Optional[Found]:
    """Find images that have a label map: another image of the same name."""
    pairs, _ = _pairs(tree)
    if not pairs:
        return None
    return Found([maps[0] for _, maps in pairs], f'{len(pairs)} images have a label map, such as '
                 f'{tree.relative(pairs[0][0])} with {tree.relative(pairs[0][1][0])}', 'likely')


def _pairs(tree: Tree) -> Tuple[List[Tuple[Path, List[Path]]], List[Path]]:
    """Return images with their label maps, and label maps without an image."""
    images: Dict[str, List[Path]] = defaultdict(list)
    maps: Dict[str, List[Path]] = defaultdict(list)
    twins = {(path.parent, path.stem) for path in tree.images if path.suffix.lower() in LOSSY}
    for path in tree.images:
        key, is_map = _role(Path(tree.relative(path)))
        beside = path.suffix.lower() == '.png' and (path.parent, path.stem) in twins
        (maps if is_map or beside else images)[key].append(path)
    pairs = [(path, maps[key]) for key, paths in images.items() if key in maps for path in paths]
    alone = [path for key, paths in maps.items() if key not in images for path in paths]
    return pairs, alone


def _role(path: Path) -> Tuple[str, bool]:
    """Return what an image and its label map have in common, and whether this is the map."""
    parts, is_map = [], False
    for name in path.parts[:-1]:
        words = [word for word in re.split(r'[\W_]+', name.lower()) if word]
        if set(words) & (IMAGE_WORDS | MAP_WORDS):
            is_map = bool(set(words) & MAP_WORDS)
            words = [re.sub('annot$', '', word) for word in words
                     if word not in IMAGE_WORDS | SILENT_WORDS
                     and (word not in MAP_WORDS or word.endswith('annot'))]
            name = '_'.join(word for word in words if word)
        parts.append(name)
    stem = MAP_STEM.sub('', path.stem)
    return '/'.join([part for part in parts if part] + [stem]), is_map or stem != path.stem


def read(tree: Tree, found: Found, findings: Findings, classes: Optional[Sequence[str]] = None,
         ignore_zero: Optional[bool] = None, like: Optional[Data] = None) -> Data:
    """Read the label maps of all parts; see :func:`mmvssd.datasets.formats.coco.read`.

    Args:
        tree: The files that are there.
        found: What :func:`find` returned.
        findings: Where faults and doubts are noted.
        classes: Names of the classes; None looks for a file that names them.
        ignore_zero: Whether 0 is not labelled and classes count from 1; None finds it out.
        like: Data whose label maps mean the same.
    """
    pairs, alone = _pairs(tree)
    for path in alone:
        findings.warn(str(tree.root), '{} label maps have no image', str(path))
    for path, maps in pairs:
        if len(maps) > 1:
            findings.stop(str(tree.root), '{} images have several label maps',
                          f'{path}: {some([tree.relative(one) for one in maps])}')
    items = [Item(path, label_map=maps[0], source=str(maps[0])) for path, maps in pairs]
    named = None if classes is not None else find_names(tree)
    names = list(classes) if classes is not None else named.names if named else None
    if like is not None and like.recoding is not None:
        code = _known_code(items, like, findings, str(tree.root))
    else:
        forced = like.ignore_zero if like is not None else ignore_zero
        code = _code_of(items, names, named.colours if named else None, _is_ade20ks(tree), forced,
                        findings, str(tree.root))
    parts, notes = divide(items, tree, 'Segmentation')
    if named:
        notes.append(f'names of classes are those of {named.file}')
    if code.recoding is None:
        for name, part in parts.items():
            part.as_is = None if name == WHOLE else _in_place(part, tree)
    return Data(SEGMENTATION, code.names, parts, code.palette, listed=True,
                ignore_zero=code.ignore_zero, recoding=code.recoding, notes=[*notes, *code.notes])


def _is_ade20ks(tree: Tree) -> bool:
    """Tell whether the folders are those of ADE20K, in which 0 is not labelled."""
    return all((tree.root / kind / 'training').is_dir() for kind in ('images', 'annotations'))


class _Code(NamedTuple):
    """What the pixels of label maps mean."""

    names: List[str]
    palette: Optional[list] = None
    recoding: Optional[Recoding] = None
    ignore_zero: bool = False
    notes: Sequence[str] = ()


def _known_code(items: Sequence[Item], like: Data, findings: Findings, where: str) -> _Code:
    """Take the meaning of other data's pixels."""
    table = like.recoding.table
    for item in items:
        fact = label_map(str(item.label_map))
        if fact is None:
            findings.stop(where, '{} label maps cannot be read as an image', str(item.label_map))
            continue
        item.size = tuple(fact['size'])
        item.values = set(map(int, np.unique(read_pixels(item.label_map, like.recoding.colours))))
        unknown = sorted(item.values - set(table))
        if unknown:
            value = _shown(unknown[0]) if like.recoding.colours else unknown[0]
            findings.stop(where, '{} label maps have values that those of training lack',
                          f'{item.label_map}: {value}')
    _note_values(items, table)
    return _Code(like.classes, like.palette, like.recoding)


def _code_of(items: List[Item], names: Optional[List[str]], colours: Optional[list],
             ade20ks: bool, forced: Optional[bool], findings: Findings, where: str) -> _Code:
    """Find out what the pixels mean, and note in each item which classes occur in it."""
    paths = [str(item.label_map) for item in items]
    facts = FileFacts(None, math.inf).read('label map', label_map, paths)
    for path in paths:
        if not isinstance(facts[path], dict):
            findings.stop(where, '{} label maps cannot be read as an image', path)
    items = [item for item in items if isinstance(facts[str(item.label_map)], dict)]
    kinds = {str(item.label_map): _kind(facts[str(item.label_map)]) for item in items}
    for item in items:
        item.size = tuple(facts[str(item.label_map)]['size'])
    if not items:
        return _Code(names or [])
    if 'colours' in kinds.values() or colours:
        single = [path for path, kind in kinds.items() if kind == 'values'
                  and set(facts[path]['values']) - {0, IGNORED} and facts[path]['mode'] != 'P']
        if single and 'colours' in kinds.values():
            coloured = next(path for path, kind in kinds.items() if kind == 'colours')
            findings.stop(where, '{} label maps have one channel, others have colours',
                          f'{single[0]}; {coloured} has colours',
                          'Write all in one way')
            return _Code(names or [])
        if 'colours' in kinds.values() or not single:
            return _colour_code(items, names, colours, findings, where)
    if _palettes_differ(items, facts):
        return _colour_code(items, names, None, findings, where)
    return _value_code(items, facts, names, ade20ks, forced, findings, where)


def _kind(fact: dict) -> str:
    return 'values' if 'values' in fact else 'equal' if fact.get('equal') else 'colours'


def _palettes_differ(items: Sequence[Item], facts: Dict[str, dict]) -> bool:
    """Tell whether indices mean other colours from file to file, as of pictures of few colours."""
    meaning: Dict[int, tuple] = {}
    for item in items:
        fact = facts[str(item.label_map)]
        if fact['mode'] == 'P':
            palette = palette_of(item.label_map)
            for value in map(int, fact['values']):
                if value != IGNORED and palette[value:value + 1] and (
                        meaning.setdefault(value, palette[value]) != palette[value]):
                    return True
    return False


def palette_of(file: Path) -> List[Tuple[int, int, int]]:
    """Return the colours of an image of indexed colours, by index."""
    with Image.open(file) as image:
        flat = image.getpalette('RGB') or []
    return [tuple(flat[start:start + 3]) for start in range(0, len(flat), 3)]


def _colour_code(items: Sequence[Item], names: Optional[List[str]], listed: Optional[list],
                 findings: Findings, where: str) -> _Code:
    """Make a class of each colour; what a file of names lists comes in its order."""
    seen: Set[int] = set()
    for item in items:
        item.values = set(map(int, np.unique(read_pixels(item.label_map, True))))
        if len(item.values) > MOST_CLASSES:
            findings.stop(where, f'{{}} label maps have more than {MOST_CLASSES} colours, which '
                                 'stand for no classes', str(item.label_map),
                          'A label map has one colour a class, without blending or compression')
        else:
            seen |= item.values
    notes = []
    void = VOID in seen and len(seen) > 2 and VOID not in map(_packed, listed or ())
    if void:
        notes.append(f'the colour {_shown(VOID)} is not labelled, as in Pascal VOC')
    known = [_packed(colour) for colour in listed] if listed else sorted(seen - {VOID} if void
                                                                         else seen)
    for item in items:
        unknown = sorted(item.values - set(known) - {VOID})
        if unknown and listed:
            findings.stop(where, '{} label maps have colours that the file of names lacks',
                          f'{item.label_map}: {_shown(unknown[0])}')
    table = dict.fromkeys(seen, IGNORED) | {colour: index for index, colour in enumerate(known)}
    if len(known) > MOST_CLASSES:
        findings.stop(where, f'the label maps have {len(known)} colours, which stand for no '
                             'classes', advice='A label map has one colour a class')
        return _Code(names or [])
    if names is None or (listed is None and len(names) != len(known)):
        if names is not None:
            findings.stop(where, f'the label maps have {len(known)} colours, and {len(names)} '
                                 f'classes are named: {some([_shown(one) for one in known])}')
        names = [f'colour_{colour:06x}' for colour in known]
    _note_values(items, table)
    notes.append(f'label maps have one colour a class: {some([_shown(one) for one in known])}; '
                 'they are written anew with numbers')
    return _Code(names, [_unpacked(colour) for colour in known], Recoding(True, table),
                 notes=notes)


def _value_code(items: Sequence[Item], facts: Dict[str, dict], names: Optional[List[str]],
                ade20ks: bool, forced: Optional[bool], findings: Findings, where: str) -> _Code:
    """Find out what the values of one channel mean."""
    several = any('values' not in facts[str(item.label_map)] for item in items)
    for item in items:
        fact = facts[str(item.label_map)]
        item.values = set(map(int, fact.get('values') or np.unique(
            read_pixels(item.label_map, False))))
        if any(value != int(value) for value in fact.get('values', ())):
            findings.stop(where, '{} label maps have values that are no whole numbers',
                          str(item.label_map))
    values = set().union(*(item.values for item in items))
    lossy = any(item.label_map.suffix.lower() in LOSSY for item in items)
    table, own, notes = _recoded(values, names, lossy)
    if table is None and len(values) > (SMALL if lossy else MOST_CLASSES):
        worst = max(items, key=lambda item: len(item.values))
        findings.stop(where, f'the label maps have {len(values)} values, which stand for no '
                             'classes', str(worst.label_map),
                      'A JPEG file does not keep values; save label maps as PNG' if lossy else
                      'A label map has one value a class')
        return _Code(names or [])
    if table is not None:
        _note_values(items, table)
        return _Code(names or own, _gathered_palette(items, facts, table),
                     Recoding(False, table), notes=notes)
    return _numbers(items, values, names, ade20ks, forced, several, facts, findings, where)


def _recoded(values: Set[int], names: Optional[List[str]],
             lossy: bool) -> Tuple[Optional[Dict[int, int]], List[str], List[str]]:
    """Return numbers of classes by value, names and notes, if the values are no such numbers."""
    black_and_white = ['background', 'foreground']
    if values == {0, IGNORED}:
        return {0: 0, IGNORED: 1}, black_and_white, [
            'label maps have the values 0 and 255; they are written anew with 0 and 1']
    if lossy and values and len(values) > 2 and all(
            value <= DARK or value >= LIGHT for value in values):
        return ({value: int(value >= LIGHT) for value in values}, black_and_white,
                ['label maps are JPEG files of black and white; they are written anew with 0 '
                 'and 1'])
    numbers = sorted(values - {IGNORED})
    shades = bool(numbers) and numbers[-1] > SMALL and len(numbers) <= DENSE * numbers[-1]
    if numbers and (numbers[0] < 0 or numbers[-1] > IGNORED or (
            shades and (names is None or numbers[-1] > len(names)))):
        known = sorted(values)
        if len(known) <= MOST_CLASSES and (names is None or len(names) == len(known)):
            return ({value: index for index, value in enumerate(known)},
                    [f'value_{value}' for value in known],
                    [f'label maps have one shade a class: {some(known)}; they are written anew '
                     f'with 0 to {len(known) - 1}'])
    return None, [], []


def _numbers(items: Sequence[Item], values: Set[int], names: Optional[List[str]], ade20ks: bool,
             forced: Optional[bool], several: bool, facts: Dict[str, dict], findings: Findings,
             where: str) -> _Code:
    """Take values as numbers of classes, from 0 or from 1 on."""
    largest = max(values - {IGNORED}, default=0)
    if forced is not None:
        from_one = forced
    elif names is not None:
        from_one = largest == len(names)
    else:
        from_one = largest > 1 and (ade20ks or min(values) > 0)
    count = len(names) if names is not None else largest + 1 - from_one
    for item in items:
        beyond = sorted(value for value in item.values - {IGNORED} if value >= count + from_one)
        if beyond:
            findings.stop(where, f'{{}} label maps have values beyond the {count} names of classes',
                          f'{item.label_map}: {beyond[-1]}', 'Name all classes')
    if count < 2:
        findings.stop(where, f'the label maps have only the values {some(sorted(values))}, and '
                             'segmentation needs two classes')
    if names is None:
        names = (['background', 'foreground'] if count == 2 and not from_one
                 else [f'class_{index + from_one}' for index in range(count)])
    table = {value: value - from_one if value != IGNORED and value >= from_one else IGNORED
             for value in values}
    _note_values(items, table)
    notes = [f'0 is {"not labelled, classes count from 1" if from_one else "the class "}'
             + ('' if from_one else repr(names[0])) + ' (--ignore-zero and --no-ignore-zero '
             'say otherwise)']
    if IGNORED in values:
        notes.append('255 is not labelled')
    recoding = None
    if several:  # equal channels
        recoding, from_one = Recoding(False, table), False
        notes.append('label maps have several equal channels; they are written anew with one')
    return _Code(names, _gathered_palette(items, facts, table), recoding, from_one, notes)


def _note_values(items: Sequence[Item], table: Dict[int, int]) -> None:
    for item in items:
        item.values = {table.get(value, IGNORED) for value in item.values} - {IGNORED}


def _gathered_palette(items: Sequence[Item], facts: Dict[str, dict],
                      table: Dict[int, int]) -> Optional[List[Tuple[int, int, int]]]:
    """Return the colours of the classes by the palette that indexed label maps have, or None."""
    indexed = next((item for item in items if facts[str(item.label_map)]['mode'] == 'P'), None)
    if indexed is None:
        return None
    palette = palette_of(indexed.label_map)
    colours = {number: palette[value] for value, number in table.items()
               if number != IGNORED and value < len(palette)}
    wanted = range(max(colours, default=-1) + 1)
    if len(set(colours.values())) < len(wanted) or set(colours) != set(wanted):
        return None
    return [colours[number] for number in wanted]


def _packed(colour: Sequence[int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _unpacked(colour: int) -> Tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255


def _shown(colour: int) -> str:
    return f'#{colour:06x}'


def _in_place(part: Part, tree: Tree) -> Optional[dict]:
    """Return the settings that read a part as it lies; None if folders hold others besides."""
    images = Path(os.path.commonpath([item.image.parent for item in part.items]))
    maps = Path(os.path.commonpath([item.label_map.parent for item in part.items]))
    endings = {(item.image.suffix, item.label_map.suffix) for item in part.items}
    if len(endings) > 1 or any(
            item.image.relative_to(images).with_suffix('')
            != item.label_map.relative_to(maps).with_suffix('') for item in part.items):
        return None
    (image_ending, map_ending), = endings
    below = [path for path in tree.images
             if path.suffix == image_ending and images in path.parents]
    if len(below) != len(part.items):
        return None
    prefix = dict(img_path=str(images), seg_map_path=str(maps))
    return dict(data_prefix=prefix, img_suffix=image_ending, seg_map_suffix=map_ending)
