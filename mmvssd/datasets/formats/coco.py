"""Detection data in COCO's form: a JSON file for each part, beside folders of images."""
import codecs
import math
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmvssd.bands.kinds import any_header
from mmvssd.datasets.formats.records import DETECTION, TEST, TRAIN, WHOLE, Data, Found, Item, Part
from mmvssd.datasets.formats.tree import Tree, folder_of, part_of_names
from mmvssd.engine.data.coco import Use, check_file
from mmvssd.engine.data.coco.boxes import lies_in
from mmvssd.engine.data.coco.values import is_id, is_number
from mmvssd.engine.data.data_faults import NO_AREA
from mmvssd.engine.data.file_facts import upright_size
from mmvssd.engine.data.findings import STOP, WARN, Findings
from mmvssd.errors import DataError
from mmvssd.phrases import numbered, some

#: Words of names of COCO's files beside those of instances.
OTHER_KINDS = ('keypoints', 'captions', 'stuff', 'panoptic', 'image_info')
#: How paths begin that lead out of the data, to where an annotation tool had the images.
OUTSIDE = re.compile(r'/|\.\.[/\\]|[A-Za-z]:[/\\]|\w+://')
#: Keys of an object that are taken over into a file that is written anew.
KEPT = ('bbox', 'area', 'iscrowd', 'segmentation')


def find(tree: Tree) -> Optional[Found]:
    """Find files of COCO's form; broken JSON files count if nothing else could be meant."""
    files = [path for path in tree.annotations('.json') if _is_coco(tree.json(path))]
    if not files and tree.file is not None and tree.file.suffix.lower() == '.json':
        content = tree.json(tree.file)
        if isinstance(content, DataError):
            raise content
    return Found(files, "JSON with 'images', 'annotations' and 'categories'") if files else None


def _is_coco(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get('images'), list):
        return False
    annotations = content.get('annotations')
    if not isinstance(annotations, list):
        return False
    first = annotations[0] if annotations and isinstance(annotations[0], dict) else {}
    # captions and panoptic segments have no boxes
    return ('categories' in content or 'bbox' in first) and not {
        'caption', 'segments_info'} & set(first)


def read(tree: Tree, found: Found, findings: Findings,
         classes: Optional[Sequence[str]] = None) -> Data:
    """Read the files of all parts.

    Args:
        tree: The files that are there.
        found: What :func:`find` returned.
        findings: Where faults and doubts are noted.
        classes: Names by index that the files have to agree with; None takes the first file's.
    """
    parts: Dict[str, Part] = {}
    names, notes = list(classes or ()), []
    files = _by_part(tree, found.files)
    found.files = list(files.values())
    for part, file in files.items():
        read_part, own, said = _read_file(tree, file, findings)
        notes += said
        names = names or own
        _agree(read_part, own, names, file, findings)
        parts[part] = read_part
    return Data(DETECTION, names, parts, notes=notes)


def _by_part(tree: Tree, files: Sequence[Path]) -> Dict[str, Path]:
    """Return the file of each part, training first."""
    by_part: Dict[str, List[Path]] = {}
    for file in files:
        # a folder's name is of the whole if all lie in it, so the file's own counts first
        part = part_of_names([file.stem, *reversed(Path(tree.relative(file)).parts[:-1])])
        by_part.setdefault(part or WHOLE, []).append(file)
    for part, several in by_part.items():
        if len(several) > 1:  # COCO's own folder has one of each kind
            several = [file for file in several
                       if not any(kind in file.stem for kind in OTHER_KINDS)] or several
            by_part[part] = several
        if len(several) > 1:
            raise DataError(
                f'{tree.root}: {len(several)} COCO files '
                + (f'for the part {part!r}: ' if part != WHOLE else 'and none names its part: ')
                + some([tree.relative(file) for file in several])
                + '. Name the file of training, and that of validation with --val')
    if tree.file is not None:
        return {WHOLE: tree.file}
    if WHOLE in by_part and TRAIN in by_part:
        del by_part[WHOLE]
    elif WHOLE in by_part:
        by_part = {TRAIN if len(by_part) > 1 else WHOLE: by_part.pop(WHOLE), **by_part}
    elif len(by_part) == 1:
        by_part = {WHOLE: next(iter(by_part.values()))}
    elif TRAIN not in by_part:
        raise DataError(f'{tree.root}: the COCO files are of {" and ".join(by_part)}, none of '
                        'training. Name the file of training, and that of validation with --val')
    order = sorted(by_part, key=lambda part: (part != TRAIN, part == TEST))
    return {part: by_part[part][0] for part in order}


def _read_file(tree: Tree, file: Path,
               findings: Findings) -> Tuple[Part, List[str], List[str]]:
    """Return the part in a file, the names of its categories and what is to be said."""
    content = tree.json(file)
    if isinstance(content, DataError):
        raise content
    annotations, images = _dicts(content, 'annotations'), _dicts(content, 'images')
    notes = _names_of_urls(images)
    folder = folder_of([str(image.get('file_name', '')) for image in images], tree, file)
    notes += _complete(annotations) + _complete_images(images, folder, tree) + _marked(file)
    counted = [one for one in annotations if not one.get('ignore')]
    masks = bool(counted) and all(one.get('segmentation') for one in counted)
    own = type(findings)()
    summary = check_file(content, str(file), str(file), Use(masks, bool(annotations), str(folder)),
                         own)
    _check_names(images, str(file), own)
    findings.add_all([*own.of(STOP), *own.of(WARN)])
    names = [name for _, name in summary.categories]
    sizes = {image['id']: (image['width'], image['height'], image.get('file_name'))
             for image in images if not own.of(STOP)}
    # with faults nothing is trained, and only the images are looked at further
    objects = {} if own.of(STOP) else _objects(
        [one for one in annotations if _is_kept(one, sizes, str(file), findings)],
        {identity: place for place, (identity, _) in enumerate(summary.categories)})
    items = []
    for image in images:
        if not isinstance(image.get('file_name'), str) or not image['file_name']:
            continue
        width, height = image.get('width'), image.get('height')
        size = (int(width), int(height)) if is_number(width) and is_number(height) else None
        item = Item(folder / image['file_name'], size, source=str(file))
        item.objects = objects.get(image.get('id'), []) if objects else []
        items.append(item)
        if not item.image.is_file():
            findings.stop(str(file), '{} image[s] that it lists [is|are] not there (the folder '
                                     f'is taken to be {folder})', item.image.name)
    as_is = None if notes else dict(ann_file=str(file), data_prefix=dict(img=f'{folder}/'))
    return Part(items, as_is), names, [f'{file.name}: {note}, written into a new file'
                                       for note in notes]


def _from_elsewhere(name: str, tree: Tree) -> Optional[Path]:
    """Return the only image of a name with a path of another machine, if it is of the same part."""
    *folders, base = name.replace('\\', '/').split('/')
    known = tree.by_name.get(base, []) if OUTSIDE.match(name) else []
    part = part_of_names(reversed(folders))
    return known[0] if len(known) == 1 and part in (None, tree.part_of(known[0].parent)) else None


def _names_of_urls(images: Sequence[dict]) -> List[str]:
    """Give images of LVIS names: the folder and the file that their addresses end with."""
    lacking = [image for image in images
               if 'file_name' not in image and isinstance(image.get('coco_url'), str)]
    for image in lacking:
        image['file_name'] = '/'.join(image['coco_url'].split('/')[-2:])
    return [numbered("{} image[s] [lacks|lack] 'file_name', taken from 'coco_url'",
                     len(lacking))] * bool(lacking)


def _marked(file: Path) -> List[str]:
    """Say if a file begins with a byte order mark, which the host does not read."""
    with open(file, 'rb') as content:
        marked = content.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    return ['without its byte order mark (BOM)'] * marked


def _complete(annotations: Sequence[dict]) -> List[str]:
    """Add what follows from the rest where annotations lack it; say what was added."""
    lacking = dict.fromkeys(('iscrowd', 'area'), 0)
    for one in annotations:
        if 'iscrowd' not in one:
            lacking['iscrowd'] += 1
            one['iscrowd'] = 0
        box = one.get('bbox')
        if 'area' not in one and isinstance(box, list) and len(box) == 4 and (
                all(map(is_number, box))):
            lacking['area'] += 1
            one['area'] = box[2] * box[3]
    meant = dict(iscrowd='0', area='width x height')
    return [numbered(f'{{}} annotation[s] [lacks|lack] {key!r}, taken as {meant[key]}', count)
            for key, count in lacking.items() if count]


def _complete_images(images: Sequence[dict], folder: Path, tree: Tree) -> List[str]:
    """Write paths as they are on the disk, and add sizes that are lacking; say what was changed."""
    slashes = letters = places = sizes = 0
    for image in images:
        name = image.get('file_name')
        if not isinstance(name, str):
            continue
        if '\\' in name and (folder / name.replace('\\', '/')).is_file():
            image['file_name'] = name = name.replace('\\', '/')
            slashes += 1
        meant = None if (folder / name).is_file() else tree.meant_by(folder / name)
        if meant is not None:
            image['file_name'] = name = os.path.relpath(meant, folder)
            letters += 1
        here = None if (folder / name).is_file() else _from_elsewhere(name, tree)
        if here is not None:
            image['file_name'] = name = os.path.relpath(here, folder)
            places += 1
        if 'width' not in image and 'height' not in image:
            fact = any_header(str(folder / name))
            if fact is not None:
                image['width'], image['height'] = upright_size(fact)
                sizes += 1
    told = (('{} file name[s] [has|have] backslashes, taken as slashes', slashes),
            ('{} file name[s] [differs|differ] from [its file|their files] in capitals or accents, '
             'and [is|are] mended', letters),
            ('{} file name[s] [leads|lead] to another machine, taken for the only image of that '
             'name', places),
            ('{} image[s] [lacks|lack] width and height, taken from [its file|their files]', sizes))
    return [numbered(text, count) for text, count in told if count]


def _check_names(images: Sequence[dict], where: str, findings: Findings) -> None:
    seen = set()
    for image in images:
        name = image.get('file_name')
        if is_id(name) and os.path.normpath(str(name)) in seen:
            findings.stop(where, '{} image[s] [is|are] listed twice', str(name),
                          'Keep one entry of each image, with the annotations of both')
        seen.add(os.path.normpath(str(name)))


def _is_kept(one: dict, sizes: Dict, where: str, findings: Findings) -> bool:
    """Tell whether the host keeps an annotation that is sound, and note if it does not."""
    *size, name = sizes.get(one['image_id'], (math.inf, math.inf, ''))
    if not lies_in(one['bbox'], tuple(size)):
        findings.warn(where, NO_AREA, f'annotation {one["id"]} of {name}, bbox {one["bbox"]}')
        return False
    return one['area'] > 0  # if not, it is noted already


def _objects(annotations: Sequence[dict], index: Dict) -> Dict:
    """Return the objects of listed classes by the id of their image."""
    objects: Dict = {}
    for one in annotations:
        if one['category_id'] in index and not one.get('ignore'):
            kept = {key: one[key] for key in KEPT if key in one}
            objects.setdefault(one['image_id'], []).append(
                dict(kept, category_id=index[one['category_id']]))
    return objects


def _dicts(content: dict, key: str) -> List[dict]:
    entries = content.get(key)
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def _agree(part: Part, own: List[str], names: List[str], file: Path, findings: Findings) -> None:
    """Give a part the indices of the classes of training; what these lack is a fault."""
    if own == names:
        return
    for name in own:
        if name not in names:
            findings.stop(str(file), '{} class[es] that the training data lack', repr(name),
                          'List the same categories in the files of all parts')
    place = {index: names.index(name) for index, name in enumerate(own) if name in names}
    for item in part.items:
        for one in item.objects:
            one['category_id'] = place.get(one['category_id'], 0)
    part.as_is = None  # MMDetection numbers the classes in the order of each file
