"""Find out what the pixels of label maps mean: numbers, shades or colours of classes."""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from mmvssd.datasets.formats.records import Data, Item
from mmvssd.engine.data.file_facts import LARGE, FileFacts, header, is_large, label_map
from mmvssd.engine.data.findings import Findings, Place
from mmvssd.phrases import counted, numbered, some

#: Value and colour that are not labelled, by custom.
IGNORED, VOID = 255, 0xE0E0C0
#: Most values that stand for classes.
MOST_CLASSES = 255
#: Values of a JPEG file that stand for black and for white.
DARK, LIGHT = 50, 205
#: Share of the values up to the largest from which on they number classes.
DENSE = 0.5
#: Largest value that is never taken for a shade of grey; most values of a JPEG file.
SMALL = 16
#: Endings of files that do not keep values.
LOSSY = ('.jpg', '.jpeg')
TWO_CLASSES = ['background', 'foreground']


@dataclass
class Recoding:
    """Makes numbers of classes of a label map.

    Attributes:
        colours: Whether its pixels are colours, RRGGBB as one number; else values of one channel.
        table: Number of the class by value or colour; 255 is not labelled.
        black_and_white: Whether the classes are black and white, which a file that does not keep
            values has in shades that differ from file to file.
    """

    colours: bool
    table: Dict[int, int]
    black_and_white: bool = False

    def number(self, value: int, file: Path) -> Optional[int]:
        """Return the number of the class of a value in a label map; None if it stands for none."""
        if self.black_and_white and file.suffix.lower() in LOSSY and (
                value <= DARK or value >= LIGHT):
            return int(value >= LIGHT)
        return self.table.get(value)

    def apply(self, file: Path) -> np.ndarray:
        """Return the numbers of classes (H, W) uint8 of a label map."""
        pixels = read_pixels(file, self.colours)
        stored, places = np.unique(pixels, return_inverse=True)
        numbers = np.array([self.number(int(value), file) for value in stored], np.uint8)
        return numbers[places].reshape(pixels.shape)


class Code(NamedTuple):
    """What the pixels of label maps mean.

    Attributes:
        names: Of the classes, by index.
        palette: Their RGB, or None.
        recoding: Makes numbers of classes; None if the pixels are such.
        ignore_zero: Whether 0 is not labelled and classes count from 1.
        notes: What is to be said of it.
    """

    names: List[str]
    palette: Optional[List[Tuple[int, int, int]]] = None
    recoding: Optional[Recoding] = None
    ignore_zero: bool = False
    notes: Sequence[str] = ()


def read_pixels(file: Path, colours: bool) -> np.ndarray:
    """Return a label map's pixels (H, W): values, or colours as RRGGBB; alpha is left out."""
    with Image.open(file) as image:
        if not colours and len(image.getbands()) == 1:
            return np.asarray(image).astype(np.int64)
        red, green, blue = np.moveaxis(np.asarray(image.convert('RGB'), np.int64), -1, 0)
    return red << 16 | green << 8 | blue if colours else red


def palette_of(file: Path) -> List[Tuple[int, int, int]]:
    """Return the colours of an image of indexed colours, by index."""
    with Image.open(file) as image:
        flat = image.getpalette('RGB') or []
    return [tuple(flat[start:start + 3]) for start in range(0, len(flat), 3)]


class Pixels:
    """The pixels of label maps while their meaning is found out.

    Each item gets the size of its label map, and in the end the classes that occur in it.

    Args:
        items: Images with label maps.
        findings: Where faults are noted.
        where: The folder that they lie in.
    """

    def __init__(self, items: Sequence[Item], findings: Findings, where: str):
        place = Place(findings, where)
        self.stop, self.warn = place.stop, place.warn
        paths = [str(item.label_map) for item in items]
        self.facts = FileFacts(None, math.inf).read('label map', label_map, paths)
        self.items = [item for item in items if isinstance(self._fact(item), dict)]
        for item in items:
            if isinstance(self._fact(item), dict):
                item.size = tuple(self._fact(item)['size'])
                if self._fact(item).get('clear'):
                    self.warn('{} label map[s] [has|have] transparent pixels, which count as the '
                              'colours stored beneath', str(item.label_map),
                              'If transparency marks a class, paint it in a colour of its own')
            elif (fact := header(str(item.label_map))) and is_large(fact['size']):
                self.stop(f'{{}} label map[s] [has|have] more than {LARGE // 10 ** 6} million '
                          'pixels, '
                          'which the host does not read', str(item.label_map),
                          'Cut them and their images into tiles')
            else:
                self.stop('{} label map[s] cannot be read as an image', str(item.label_map),
                          'Save them as PNG')

    def code_like(self, like: Data) -> Code:
        """Take the meaning of other data's pixels."""
        if like.recoding is None:
            return self._numbers_like(like)
        recoding = like.recoding
        for item in self.items:
            item.values = _values_of(item, recoding.colours)
            unknown = [value for value in sorted(item.values)
                       if recoding.number(value, item.label_map) is None]
            if unknown:
                value = _shown(unknown[0]) if recoding.colours else unknown[0]
                self.stop('{} label map[s] [has|have] values that those of training lack',
                          f'{item.label_map}: {value}')
        self._note_classes(recoding)
        return Code(like.classes, like.palette, recoding)

    def _numbers_like(self, like: Data) -> Code:
        """Take values as numbers of classes, as those of other data are."""
        single = all('values' in self._fact(item) for item in self.items)
        if not single or self._palettes_differ():  # which are no such numbers
            return self.code(like.classes, None, False, like.ignore_zero)
        return self._numbers(self._read_values(), like.classes, False, like.ignore_zero)

    def code(self, names: Optional[List[str]], colours: Optional[list], ade20ks: bool,
             ignore_zero: Optional[bool]) -> Code:
        """Find out what the pixels mean.

        Args:
            names: Of the classes, if anything names them. A single one stands beside a background.
            colours: RGB of the names, if they have any.
            ade20ks: Whether the folders are called as those of ADE20K, in which 0 is not labelled.
            ignore_zero: Whether 0 is not labelled; None finds it out.
        """
        if names is not None and len(names) == 1 and not colours:
            names = [TWO_CLASSES[0], *names]
        coloured = [item for item in self.items if self._is_coloured(item)]
        single = [item for item in self.items if self._is_single(item)]
        if coloured and single:
            self.stop('{} label map[s] [has|have] one channel, others have colours',
                      f'{single[0].label_map}; {coloured[0].label_map} has colours',
                      'Write all in one way')
        elif coloured or (colours and not single):
            return self._colour_code(names, colours)
        elif self._palettes_differ():
            return self._colour_code(names, None)
        elif self.items:
            return self._value_code(names, ade20ks, ignore_zero)
        return Code(names or [])

    def _fact(self, item: Item) -> Any:
        return self.facts[str(item.label_map)]

    def _is_coloured(self, item: Item) -> bool:
        return 'values' not in self._fact(item) and not self._fact(item).get('equal')

    def _is_single(self, item: Item) -> bool:
        """Tell whether a label map has one channel of numbers that are not black and white only."""
        fact = self._fact(item)
        return fact['mode'] != 'P' and bool(set(fact.get('values', ())) - {0, IGNORED})

    def _palettes_differ(self) -> bool:
        """Tell whether indices mean other colours from file to file, as of optimized palettes."""
        meaning: Dict[int, tuple] = {}
        for item in self.items:
            if self._fact(item)['mode'] != 'P':
                continue
            palette = palette_of(item.label_map)
            for value in map(int, self._fact(item)['values']):
                if value != IGNORED and value < len(palette) and (
                        meaning.setdefault(value, palette[value]) != palette[value]):
                    return True
        return False

    def _note_classes(self, recoding: Recoding) -> None:
        for item in self.items:
            numbers = {recoding.number(value, item.label_map) for value in item.values}
            item.values = {number for number in numbers if number not in (IGNORED, None)}

    def _colour_code(self, names: Optional[List[str]], listed: Optional[list]) -> Code:
        """Make a class of each colour; those that a file lists come in its order."""
        for item in self.items:
            item.values = _values_of(item, True)
            if len(item.values) > MOST_CLASSES:
                self.stop(f'{{}} label map[s] [has|have] more than {MOST_CLASSES} colours, which '
                          'stand for '
                          'no classes', str(item.label_map),
                          'A label map has one colour a class, without blending or compression. '
                          'Save it as PNG')
        seen = set().union(*(item.values for item in self.items))
        void = len(seen) > 2 and VOID not in map(_packed, listed or ())
        known = ([_packed(colour) for colour in listed] if listed
                 else sorted(seen - {VOID} if void else seen))
        self._check_colours(known, names, listed)
        if names is None or len(names) != len(known):
            names = [f'colour_{colour:06x}' for colour in known[:MOST_CLASSES]]
        recoding = Recoding(True, dict.fromkeys({*seen, *([VOID] if void else [])}, IGNORED) | {
            colour: index for index, colour in enumerate(known[:MOST_CLASSES])})
        self._note_classes(recoding)
        notes = [f'label maps have one colour a class: {some(list(map(_shown, known)))}; they are '
                 'written anew with numbers']
        if void and VOID in seen:
            notes.append(f'the colour {_shown(VOID)} is not labelled, as in Pascal VOC')
        return Code(names, list(map(_unpacked, known)), recoding, notes=notes)

    def _check_colours(self, known: List[int], names: Optional[List[str]],
                       listed: Optional[list]) -> None:
        for item in self.items:
            unknown = sorted(item.values - set(known) - {VOID})
            if unknown and listed:
                self.stop('{} label map[s] [has|have] colours that the file of names lacks',
                          f'{item.label_map}: {_shown(unknown[0])}')
        if len(known) < 2 and self.items:
            self.stop(f'the label maps have only the colour {some(list(map(_shown, known)))}, and '
                      'segmentation needs two classes')
        elif len(known) > MOST_CLASSES:
            if all(len(item.values) <= MOST_CLASSES for item in self.items):  # else it is said
                self.stop(f'the label maps have {len(known)} colours, which stand for no classes',
                          advice='A label map has one colour a class')
        elif names is not None and len(names) != len(known):
            self.stop(f'the label maps have {counted(len(known), "colour")}, '
                      f'{some(list(map(_shown, known)))}, and the names are of '
                      f'{counted(len(names), "class")}')

    def _value_code(self, names: Optional[List[str]], ade20ks: bool,
                    ignore_zero: Optional[bool]) -> Code:
        """Find out what the values of one channel mean."""
        values = self._read_values()
        lossy = any(item.label_map.suffix.lower() in LOSSY for item in self.items)
        recoding, own_names, note = _recoded(values, names, lossy)
        blurred = lossy and not (recoding and recoding.black_and_white)
        if (blurred and len(values) > SMALL) or (recoding is None and len(values) > MOST_CLASSES):
            worst = max(self.items, key=lambda item: len(item.values))
            self.stop(f'the label maps have {len(values)} values, which stand for no classes',
                      str(worst.label_map),
                      'A JPEG file does not keep values; save label maps as PNG' if lossy else
                      'A label map has one value a class')
            return Code(names or [])
        if blurred:
            self.warn(f'label maps are JPEG files, which do not keep values: {some(sorted(values))}'
                      ' are taken as they are', advice='Save label maps as PNG')
        if recoding is None:
            return self._numbers(values, names, ade20ks, ignore_zero)
        names = names or own_names
        self._note_classes(recoding)
        return Code(names, self._palette(recoding.table, len(names)), recoding, notes=[note])

    def _read_values(self) -> Set[int]:
        """Give each item the values of its label map, and return all."""
        for item in self.items:
            values = self._fact(item).get('values')
            item.values = _values_of(item, False) if values is None else set(map(int, values))
            # a list without values is of a map with infinite ones
            if values == [] or any(value != int(value) for value in values or ()):
                self.stop('{} label map[s] [has|have] values that are not whole numbers',
                          str(item.label_map))
        return set().union(*(item.values for item in self.items))

    def _numbers(self, values: Set[int], names: Optional[List[str]], ade20ks: bool,
                 ignore_zero: Optional[bool]) -> Code:
        """Take values as numbers of classes, from 0 or from 1 on."""
        largest = max(values - {IGNORED}, default=0)
        if ignore_zero is None:
            ignore_zero = (largest == len(names) if names is not None
                           else largest > 1 and (ade20ks or min(values) > 0))
        first = int(ignore_zero)
        count = len(names) if names is not None else largest + 1 - first
        self._check_numbers(values, count, count + first)
        if names is None:
            names = (TWO_CLASSES if count == 2 and not ignore_zero
                     else [f'class_{index + first}' for index in range(count)])
        table = {value: value - first if value != IGNORED and value >= first else IGNORED
                 for value in {*values, *range(count + first), IGNORED}}
        self._note_classes(Recoding(False, table))
        meaning = ('not labelled, classes count from 1' if ignore_zero
                   else f'the class {names[0]!r}' if names else 'no class')
        notes = [f'0 is {meaning} (--ignore-zero and --no-ignore-zero say otherwise)']
        if IGNORED in values:
            notes.append('255 is not labelled')
        palette = self._palette(table, len(names))
        if all('values' in self._fact(item) for item in self.items):
            return Code(names, palette, None, ignore_zero, notes)
        notes.append('label maps have several channels, all of them grey; they are written anew '
                     'with one')
        return Code(names, palette, Recoding(False, table), notes=notes)

    def _check_numbers(self, values: Set[int], count: int, end: int) -> None:
        for item in self.items:
            beyond = sorted(value for value in item.values - {IGNORED} if value >= end)
            if beyond:
                self.stop(f'{{}} label map[s] [has|have] values beyond the '
                          f'{counted(count, "name")} of classes',
                          f'{item.label_map}: {beyond[-1]}', 'Name all classes')
            elif max(item.values, default=0) > IGNORED:
                self.stop(f'{{}} label map[s] [has|have] values beyond {IGNORED}, and the host '
                          'reads 8 '
                          'bits', f'{item.label_map}: {max(item.values)}',
                          f'Join classes; {MOST_CLASSES} can be told apart')
        if count < 2:
            self.stop(numbered('the label maps have only the value[s] ', len(values))
                      + f'{some(sorted(values))}, and segmentation needs two classes')

    def _palette(self, table: Dict[int, int], count: int
                 ) -> Optional[List[Tuple[int, int, int]]]:
        """Return the colours of all classes by the palette of indexed label maps, or None."""
        indexed = next((item for item in self.items if self._fact(item)['mode'] == 'P'), None)
        if indexed is None:
            return None
        palette = palette_of(indexed.label_map)
        colours = {number: palette[value] for value, number in table.items()
                   if number != IGNORED and value < len(palette)}
        if set(colours) != set(range(count)) or len(set(colours.values())) < count:
            return None
        return [colours[number] for number in range(count)]


def _recoded(values: Set[int], names: Optional[List[str]],
             lossy: bool) -> Tuple[Optional[Recoding], List[str], str]:
    """Return the recoding, names and a note, if the values are no numbers of classes.

    Black and white are two classes, unless more are named: then white is not labelled.
    """
    if names is None or len(names) == len(TWO_CLASSES):
        black_and_white = Recoding(False, {0: 0, IGNORED: 1}, black_and_white=True)
        if values == {0, IGNORED}:
            return black_and_white, TWO_CLASSES, (
                'label maps have the values 0 and 255; they are written anew with 0 and 1')
        if lossy and min(values) <= DARK and max(values) >= LIGHT and not any(
                DARK < value < LIGHT for value in values):
            return black_and_white, TWO_CLASSES, (
                'label maps are JPEG files of black and white; they are written anew with 0 and 1')
    numbers = sorted(values - {IGNORED})
    if not numbers or len(values) > MOST_CLASSES:
        return None, [], ''
    largest, known = numbers[-1], sorted(values)
    shades = largest > SMALL and len(numbers) <= DENSE * largest and (
        names is None or largest > len(names))
    if (shades or numbers[0] < 0 or largest > IGNORED) and len(known) == len(names or known):
        return (Recoding(False, {value: index for index, value in enumerate(known)}),
                [f'value_{value}' for value in known],
                f'label maps have one shade a class: {some(known)}; they are written anew with '
                f'0 to {len(known) - 1}')
    return None, [], ''


def _values_of(item: Item, colours: bool) -> Set[int]:
    return set(map(int, np.unique(read_pixels(item.label_map, colours))))


def _packed(colour: Sequence[int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _unpacked(colour: int) -> Tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255


def _shown(colour: int) -> str:
    return f'#{colour:06x}'
