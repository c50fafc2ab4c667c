"""Read data whole, look at all images, and divide them: what a recipe is written from."""
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmvssd.bands.files import NUMPY, read_bands
from mmvssd.bands.kinds import Kind, any_header, kind_of
from mmvssd.datasets.formats import (
    CLASSIFICATION,
    DETECTION,
    FORMATS,
    SEGMENTATION,
    TEST,
    TRAIN,
    VAL,
    WHOLE,
    Data,
    Found,
    Item,
    Part,
    Tree,
    recognize,
)
from mmvssd.datasets.formats.tree import folded
from mmvssd.engine.data.data_survey.overlap import check_copies
from mmvssd.engine.data.file_facts import (
    LARGE,
    MISSING,
    FileFacts,
    is_large,
    open_image,
    upright_size,
)
from mmvssd.engine.data.findings import EXAMPLES, STOP, Finding, Findings
from mmvssd.engine.data.label_maps import LEAVE_OUT, THIN
from mmvssd.errors import DataError, UnreadableImageError, printable
from mmvssd.new_recipe.bands import Bands, common_kind, measure
from mmvssd.new_recipe.dividing import divide
from mmvssd.new_recipe.painting import to_segmentation
from mmvssd.phrases import counted, none_of, numbered, some

#: Names of tasks in sentences.
TASKS = {DETECTION: 'detection', SEGMENTATION: 'segmentation', CLASSIFICATION: 'classification'}
#: Endings of files that may be annotations.
ANNOTATIONS = ('.csv', '.tsv', '.json', '.jsonl', '.ndjson', '.xml', '.yaml', '.yml', '.txt')
#: Seconds that images are decoded for, to see whether they are whole.
DECODING = 20
#: How validation was set aside if the data have it.
GIVEN = 'given'
#: Files that are named for each kind of fault.
NAMED = 50
#: Classes that a report lists.
LISTED = 100


class Faults(Findings):
    """Findings whose faults name many files, so that all can be mended before the next try."""

    def __init__(self) -> None:
        super().__init__(NAMED)

    def text(self) -> str:
        """Return all findings with the files that they name, faults first."""
        text = super().text()
        for fault in self.of(STOP):
            text = text.replace(str(fault), _all_of(fault))
        return text


def _all_of(fault: Finding) -> str:
    """Return the text of a fault with all files that it keeps."""
    first, every = (printable(', '.join(names)) for names in (
        fault.first[:EXAMPLES], dict.fromkeys(fault.first)))
    return str(fault).replace(f' (the first: {first})', f' (the first: {every})')


@dataclass
class Survey:
    """What was found of data, divided.

    Attributes:
        root: The folder that was looked at.
        format: The format's name.
        found: What speaks for it.
        data: The data; its parts are TRAIN and VAL, and TEST if there is one.
        sizes: (width, height) of all images as they are trained on, sorted by the shorter side.
        split: How validation was set aside, in words.
        doubts: What else is doubtful.
        bands: What LoadBands reads; None of photographs.
    """

    root: Path
    format: str
    found: Found
    data: Data
    sizes: List[Tuple[int, int]]
    split: str
    doubts: List[str] = field(default_factory=list)
    bands: Optional[Bands] = None

    @property
    def masked(self) -> Tuple[int, int]:
        """How many objects have masks, and how many there are."""
        objects = [one for item in self.data.items for one in item.objects]
        return sum(bool(one.get('segmentation')) for one in objects), len(objects)

    @property
    def masks(self) -> bool:
        """Whether all objects have masks, so that a mask head can be trained."""
        with_mask, objects = self.masked
        return 0 < with_mask == objects

    @property
    def median_size(self) -> Tuple[int, int]:
        """The median image's (shorter, longer) side."""
        shorter = sorted(min(size) for size in self.sizes)
        longer = sorted(max(size) for size in self.sizes)
        return shorter[len(shorter) // 2], longer[len(longer) // 2]

    def counts(self, part: str) -> Counter:
        """Return objects of a part by class; images, in segmentation."""
        if self.data.task == DETECTION:
            return Counter(one['category_id'] for item in self.data.parts[part].items
                           for one in item.objects if not one['iscrowd'])
        return Counter(label for item in self.data.parts[part].items for label in item.classes)


def survey(path: str, *, task: Optional[str] = None, form: Optional[str] = None,
           val: Optional[str] = None, classes: Optional[Sequence[str]] = None,
           ignore_zero: Optional[bool] = None, fraction: float = 0.2, seed: int = 0) -> Survey:
    """Look at data, and set images aside for validation if none are.

    Args:
        path: A folder, or an annotation file.
        task: 'det', 'seg' or 'cls'; None takes what the data tell.
        form: Name of the format; None finds it out.
        val: A folder or an annotation file of the same format, for validation.
        classes: Names of the classes, by index; None takes the data's.
        ignore_zero: Whether 0 of a label map is not labelled; None finds it out.
        fraction: Share of the images that validate if none are set aside.
        seed: Of that choice.

    Raises:
        DataError: The data are of no known format, of several, or have faults; all are listed.
    """
    findings = Faults()
    tree = Tree(path)
    name, found = recognize(tree, task, form)
    zero = {} if FORMATS[name].task != SEGMENTATION else dict(ignore_zero=ignore_zero)
    data = FORMATS[name].read(tree, found, findings, classes, **zero)
    if val is not None:
        _add_validation(data, name, val, findings)
    if task == SEGMENTATION and data.task == DETECTION:
        to_segmentation(data, str(path), findings)
    _leave_out_unlabelled_test(data)
    if tree.unread:
        data.notes.append(f'{counted(len(tree.unread), "photograph")} of formats that are not '
                          f'read, such as {tree.unread[0]}: convert them to JPEG')
    sizes = _look_at_images(data, findings)
    kind = common_kind(data, str(path), findings)
    for loop in tree.loops:
        findings.warn(str(tree.root), '{} link[s] [leads|lead] back to a folder above them', loop)
    _check_items(data, str(path), findings, _not_taken(tree, name))
    _check_copies(data, str(path), findings)
    if findings.of(STOP):
        raise DataError(findings.text())
    split = _set_aside(data, fraction, seed)
    _check_classes(data, str(path), split == GIVEN, findings)
    if findings.of(STOP):
        raise DataError(findings.text())
    bands = kind and _measured(kind, data)
    return Survey(tree.root, name, found, data, sizes, split, list(map(str, findings.of('warn'))),
                  bands)


def _measured(kind: Kind, data: Data) -> Bands:
    try:
        return measure(kind, [str(item.image) for item in data.parts[TRAIN].items])
    except UnreadableImageError as error:  # beyond the images that were decoded before
        raise DataError(str(error)) from error


def _add_validation(data: Data, name: str, path: str, findings: Findings) -> None:
    """Add a given set of validation, read as the data of training were."""
    tree = Tree(path)
    found = FORMATS[name].find(tree)
    if found is None:
        raise DataError(f'--val: {path} holds no data of the format {name}, which those of '
                        'training have')
    extra = dict(like=data) if data.task == SEGMENTATION else {}
    given = FORMATS[name].read(tree, found, findings, data.classes, **extra)
    part = given.parts.get(VAL) or given.parts.get(WHOLE)
    if part is None:
        raise DataError(f'--val: {path} holds the parts {" and ".join(given.parts)}, none of '
                        'validation; name the folder or file of one part')
    if (given.recoding, given.ignore_zero) != (data.recoding, data.ignore_zero):
        findings.stop(str(path), 'its label maps have other values than those of training',
                      advice='Write all in one way')
    trained = data.parts.get(TRAIN) or data.parts[WHOLE]
    data.parts = {TRAIN: trained, VAL: part, **_test_part(data)}


def _leave_out_unlabelled_test(data: Data) -> None:
    """Leave out images of testing without annotations, which no score can be computed of."""
    test = data.parts.get(TEST)
    if test is not None and not any(item.classes for item in test.items):
        del data.parts[TEST]
        data.notes.append(numbered('the {} image[s] of test [has|have] no annotations and '
                                   '[is|are] not used', len(test.items)))


def _test_part(data: Data) -> Dict[str, Part]:
    return {name: part for name, part in data.parts.items() if name == TEST}


def _look_at_images(data: Data, findings: Findings) -> List[Tuple[int, int]]:
    """Look at the images' headers; give each item the size that it is trained in."""
    paths = [str(item.image) for item in data.items]
    headers = FileFacts(None, math.inf).read('header', any_header, paths)
    broken = FileFacts(None, DECODING).read('decoded', _fault_of, paths)
    if len(broken) < len(headers):
        data.notes.append(f'{len(broken)} of {len(headers)} images were decoded to see whether '
                          f'they are whole, in {DECODING} seconds; of the others the headers were '
                          'read')
    sizes = []
    for item in data.items:
        path = str(item.image)
        fact = headers[path]
        # the source of a label map is itself
        where = str(item.label_map.parent) if item.label_map is not None else item.source or path
        if fact == MISSING:  # if it is no link either, the format has noted it
            if os.path.lexists(path):
                findings.stop(where, '{} link[s] to [an image|images] [leads|lead] nowhere', path,
                              'Copy the images to their places, or remove the links')
            continue
        if fact is None or broken.get(path):
            findings.stop(where, '{} image[s] cannot be read',
                          f'{path} ({broken.get(path) or "no image"})',
                          'Write them anew, or remove them with their annotations')
            continue
        upright, stored = upright_size(fact), tuple(fact['size'])
        if item.size is not None and item.size != upright:
            _note_size(item, item.size, upright, stored, findings)
        if item.label_map is not None and 1 in upright:
            findings.stop(where, THIN, str(item.label_map), LEAVE_OUT)
        item.size = upright
        sizes.append(upright)
    large = sum(map(is_large, sizes))
    if large:
        data.notes.append(numbered(f'{{}} image[s] [has|have] more than {LARGE // 10 ** 6} million '
                                   'pixels, and only [its header was|their headers were] read; '
                                   'training is quicker on tiles of [it|them]', large))
    return sizes


def _fault_of(path: str) -> Optional[str]:
    """Say why an image cannot be decoded; None if it can."""
    try:
        kind = kind_of(path)
        if not kind.photograph if kind else path.lower().endswith(NUMPY):
            read_bands(path)
            return None
        with open_image(path) as image:
            if not is_large(image.size):
                image.load()
    except Exception as error:  # each format's reader has errors of its own
        return str(error).removeprefix(f'{path}: ') if os.path.getsize(path) else 'empty: 0 bytes'
    return None


def _note_size(item: Item, size: tuple, upright: tuple, stored: tuple,
               findings: Findings) -> None:
    sized = item.image if item.label_map is None else item.label_map
    text = (f'{sized}: {size[0]} x {size[1]}, the image has '
            f'{upright[0]} x {upright[1]}')
    what = 'label map[s]' if item.label_map is not None else 'annotation[s]'
    where = str(Path(item.source).parent) if item.source else str(item.image.parent)
    if size == stored:
        findings.stop(where, f'{{}} {what} [lies|lie] as the image is stored, which its EXIF '
                             'orientation turns', text,
                      'Write the images turned, without the EXIF entry, and annotate them so')
    else:
        findings.stop(where, f'{{}} {what} [is|are] of another size than [its|their] image', text,
                      'Export them anew, or resize them to their images by the nearest pixel'
                      if item.label_map is not None else '')


def _not_taken(tree: Tree, name: str) -> str:
    """Say which files beside folders of images may be annotations, and were not taken for such."""
    files = [tree.relative(file) for ending in ANNOTATIONS for file in tree.others.get(ending, ())]
    if name != 'class_folders' or not files:
        return ''
    return numbered(f'{some(files)} [was|were] not taken for annotations; docs/your_data.md shows '
                    'what these look like', len(files))


def _check_items(data: Data, where: str, findings: Findings, not_taken: str) -> None:
    """Look for doubles, and for data that teach nothing."""
    places: Dict[str, str] = {}
    for name, part in data.parts.items():
        seen: Dict[str, Item] = {}
        for item in part.items:
            path = os.path.realpath(item.image)
            if path in seen:
                findings.stop(where, '{} image[s] [is|are] listed twice', str(item.image))
            seen[path] = item
            if places.setdefault(path, name) != name:
                findings.warn(where, f'{{}} image[s] [is|are] both of {places[path]} and of '
                                     f'{name}, '
                                     'whose scores they raise', str(item.image))
    if not data.items:
        if not findings.of(STOP):
            findings.stop(where, 'holds no images')
    elif data.task == DETECTION and not findings.of(STOP) and not any(
            item.classes for item in data.items):
        findings.stop(where, f'{none_of(len(data.items), "image")} has an object')
    elif data.task == CLASSIFICATION and len(data.classes) < 2:
        findings.stop(where, f'has one class, {data.classes[0]}; a classifier needs two',
                      advice=not_taken)
    elif len(data.items) == 1:
        findings.stop(where, f'there is only one image, {data.items[0].image}; training needs '
                             'one and validation another',
                      advice='Add images, or name data of validation with --val')


def _check_copies(data: Data, where: str, findings: Findings) -> None:
    """Note images that are copies, whichever part they are of."""
    classes: Dict[str, Optional[str]] = {
        str(item.image): data.classes[item.label] for item in data.items
        if item.label is not None}
    check_copies(where, [str(item.image) for item in data.items], classes,
                 FileFacts(None, DECODING), findings)


def _set_aside(data: Data, fraction: float, seed: int) -> str:
    """Divide what is not divided; say what was done."""
    whole = data.parts.get(WHOLE) or data.parts[TRAIN]
    if VAL in data.parts:
        return GIVEN
    if len(whole.items) < 2:
        raise DataError(f'there is only one image of training, {whole.items[0].image}; name data '
                        'of validation with --val')
    if data.task == CLASSIFICATION and len({item.label for item in whole.items}) == len(
            whole.items):
        raise DataError(f'each of the {len(whole.items)} classes has only one image, which '
                        'training needs. Add images, or name data of validation with --val')
    trained, validated = divide(whole.items, fraction, seed)
    data.parts = {TRAIN: Part(trained), VAL: Part(validated), **_test_part(data)}
    return (f'made here, {fraction:.0%} of the images at random with the seed {seed}'
            + (', class by class' if data.task == CLASSIFICATION else ''))


def _check_classes(data: Data, where: str, given: bool, findings: Findings) -> None:
    """Note classes that training lacks; a fault of parts that are given, unless data list them."""
    trained = {label for item in data.parts[TRAIN].items for label in item.classes}
    if not trained:
        findings.stop(where, 'no image of training has an object of a class')
    for name, part in data.parts.items():
        if name == TRAIN:
            continue
        if not any(item.classes for item in part.items):
            findings.stop(where, f'{none_of(len(part.items), "image")} of {name} has an '
                                 'object')
        lacking: Dict[int, Item] = {}
        for item in part.items:
            for label in item.classes - trained:
                lacking.setdefault(label, item)
        for label, item in lacking.items():
            note = findings.stop if given and not data.listed else findings.warn
            note(where, f'{{}} class[es] [occurs|occur] in {name} and not in training',
                 f'{data.classes[label]} in {item.image}')
    alike: Dict[str, List[str]] = {}
    for name in data.classes:
        alike.setdefault(folded(' '.join(name.split())), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            findings.warn(where, 'names of classes differ only in capitals, blanks or accents',
                          ' and '.join(map(repr, names)), 'If a class is meant, give it one name')
    never = [name for index, name in enumerate(data.classes) if index not in trained]
    if never and len(never) < len(data.classes):
        findings.warn(where, numbered(f'{{}} of {counted(len(data.classes), "class")} never '
                                      '[occurs|occur] in training: ', len(never)) + some(never))
