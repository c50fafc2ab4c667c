"""Label maps of segmentation: form, size and values of the files as they are stored."""
import os
from typing import Any, Dict, Optional, Sequence, Set

from mmvssd.engine.data.file_facts import BYTES, MISSING, upright_size
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.names import check_occurrence
from mmvssd.phrases import counted, of_all

#: Largest value of a byte, and what reduce_zero_label makes of 0.
LARGEST = 255

#: Endings of files that do not keep values.
LOSSY = ('.jpg', '.jpeg')

#: What MMSegmentation makes a row of numbers of, which no later step takes.
THIN = '{} label map[s] of one row or one column of pixels, which the host cannot read'
LEAVE_OUT = 'Leave out such images, or crop them from larger ones'
FORM = 'A label map has one channel, whose values are numbers of classes'
TO_NUMBERS = 'Write numbers of classes in place of the values'


def label_of(value: int, reduced: bool, mapping: Dict[int, int]) -> int:
    """Return what the host makes of a stored value.

    Args:
        value: As the file has it.
        reduced: The data set's ``reduce_zero_label``.
        mapping: The data set's ``label_map``; empty if it has none.
    """
    if reduced:
        value = LARGEST if value in (0, LARGEST) else value - 1
    return mapping.get(value, value)


class LabelMaps:
    """The label maps of one data set.

    Args:
        dataset: A data set of MMSegmentation's.
        load: Its step that loads label maps.
        num_classes: Of the model's head.
        ignored: Label that the head's loss ignores.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """

    def __init__(self, dataset, load, num_classes: int, ignored: int, where: str,
                 findings: Findings):
        self.findings, self.where, self.num_classes = findings, where, num_classes
        self.ignored = ignored
        self.reduced = bool(dataset.reduce_zero_label)
        self.mapping = dataset.label_map or {}
        self.backend = getattr(load, 'imdecode_backend', 'pillow')
        self.classes = dataset.metainfo.get('classes') or ()
        self.occurring: Set[int] = set()
        self.stored: Set[int] = set()
        self.maps = self.all_ignored = 0
        self.example: Optional[str] = None

    def check(self, images: Dict[str, dict], maps: Dict[str, Any],
              pairs: Sequence[tuple], honours_exif: bool, complete: bool) -> None:
        """Look at all of them.

        Args:
            images: Headers of the images, by path.
            maps: Facts of the label maps, by path.
            pairs: Paths of an image and its label map.
            honours_exif: Whether the images are turned as their EXIF says.
            complete: Whether no map was left out for want of time.
        """
        for image, path in pairs:
            fact = maps.get(path)
            if path not in maps or fact == MISSING:
                continue
            if fact is None:
                self.stop('{} label map[s] cannot be read as an image', path)
                continue
            self._check_size(images.get(image), fact, path, honours_exif)
            if 1 in fact['size']:
                self.stop(THIN, path, LEAVE_OUT)
            if self._has_right_form(fact, path):
                self._check_values(fact['values'], path)
        self._check_together(complete)

    def stop(self, what: str, example: Optional[str] = None, advice: str = '') -> None:
        self.findings.stop(self.where, what, example and os.path.basename(example), advice)

    def _check_size(self, image: Optional[dict], fact: dict, path: str, turned: bool) -> None:
        if not isinstance(image, dict):
            return
        size = upright_size(image) if turned else tuple(image['size'])
        given = tuple(fact['size'])
        if given == size:
            return
        sizes = f'{os.path.basename(path)}: {given[0]} x {given[1]}, image {size[0]} x {size[1]}'
        if turned and given == tuple(image['size']):
            self.stop('{} label map[s] [lies|lie] as the image is stored, which its EXIF '
                      'orientation turns',
                      sizes, "Turn the files, or load with color_type='color_ignore_orientation'")
        elif given == size[::-1]:
            self.stop('{} label map[s] [has|have] width and height exchanged', sizes)
        else:
            self.stop('{} label map[s] of another size than [its|their] image', sizes)

    def _has_right_form(self, fact: dict, path: str) -> bool:
        mode = fact['mode']
        if 'values' not in fact:
            same = '; all colours are grey: keep one channel' if fact.get('equal') else ''
            self.stop(f'{{}} label map[s] with colours or several channels (mode {mode})', path,
                      FORM + same)
        elif mode == 'P' and self.backend != 'pillow':
            self.stop(f'{{}} label map[s] with a palette, which imdecode_backend={self.backend!r} '
                      'turns into colours', path, "Load them with 'pillow'")
        elif mode == 'F':
            self.stop('{} label map[s] of floating-point numbers', path,
                      FORM + '; save whole numbers of 8 bits')
        elif mode not in BYTES and (max(fact['values']) > LARGEST or min(fact['values']) < 0):
            self.stop(f'{{}} label map[s] with values outside 0 to {LARGEST}, of which the host '
                      'keeps the remainder of a division by 256',
                      f'{path}: {max(fact["values"]):.0f}', TO_NUMBERS)
        else:
            return True
        return False

    def _check_values(self, values: Sequence[float], path: str) -> None:
        stored = {int(value) for value in values}
        labels = {label_of(value, self.reduced, self.mapping) for value in stored}
        if path.lower().endswith(LOSSY):
            self.findings.warn(self.where, '{} label map[s] [is a JPEG file|are JPEG files], '
                                           'whose compression '
                                           'changes values', os.path.basename(path),
                               'Save them as PNG')
        self.maps += 1
        self.stored |= stored
        self.example = self.example or path
        learnt = labels - {self.ignored}
        self.occurring |= learnt
        if not learnt:
            self.all_ignored += 1
            self.findings.warn(self.where, '{} label map[s] of which all pixels are ignored',
                               os.path.basename(path))
        wrong = sorted(label for label in learnt if label >= self.num_classes)
        if wrong:
            self.stop(f'{{}} label map[s] with values that no class has: the model has '
                      f'{counted(self.num_classes, "class")}, after '
                      f'reduce_zero_label={self.reduced}',
                      f'{os.path.basename(path)}: {wrong[-1]}', TO_NUMBERS)

    def _check_together(self, complete: bool) -> None:
        if not self.maps:
            return
        every = of_all(self.maps, self.maps, 'label map')
        if self.stored == {0, 255} and self.ignored == 255 and self.num_classes > 1:
            self.stop(f'the values of {every} are 0 and 255, and 255 is ignored', self.example,
                      'Write 1 in place of 255')
        elif self.all_ignored == self.maps:
            self.stop(f'all pixels of {every} are ignored', self.example,
                      'reduce_zero_label=True ignores 0' if self.reduced else '')
        elif complete:
            counts = {name: int(index in self.occurring) for index, name in enumerate(self.classes)}
            check_occurrence(counts, list(self.classes), self.where, self.findings)
