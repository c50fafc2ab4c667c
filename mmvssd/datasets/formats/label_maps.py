"""Segmentation data as a label map for each image, whatever its pixels hold."""
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

from PIL import Image

from mmvssd.bands.files import NUMPY
from mmvssd.datasets.formats.class_names import find_names
from mmvssd.datasets.formats.dividing import divide
from mmvssd.datasets.formats.pixels import LOSSY, Pixels
from mmvssd.datasets.formats.records import SEGMENTATION, WHOLE, Data, Found, Item, Part
from mmvssd.datasets.formats.tree import PARTS, Tree, part_of_names
from mmvssd.datasets.formats.words import IMAGE_WORDS, MAP_WORDS, OBJECT_WORDS, SILENT_WORDS
from mmvssd.engine.data.findings import Findings
from mmvssd.phrases import numbered, some

#: What a label map's name has beside its image's.
MAP_STEM = re.compile(r'[_-](mask|masks|label|labels|gt|seg|segmentation|labelmap)$', re.IGNORECASE)
#: What names of images and of label maps have that do not agree without it: of Cityscapes, CamVid,
#: DeepGlobe, Potsdam.
OWN_IMAGE_STEM = re.compile(r'_(leftImg8bit|sat|rgb|image|img)$', re.IGNORECASE)
OWN_MAP_STEM = re.compile(r'_(L|gtFine_labelTrainIds|gtCoarse_labelTrainIds)$')
#: Endings of Cityscapes' other kinds of label maps.
OTHER_STEM = re.compile(r'_gt(Fine|Coarse)_(labelIds|instanceIds|color)$')
#: Endings of full ADE20K's label maps of the parts of objects.
PARTS_STEM = re.compile(r'^ADE_.*_parts_\d+$')
#: Most colours of an image that may be a label map though its folder does not say of what, and how
#: many are looked at.
FEW_COLOURS, PROBED = 64, 5

#: Images, and label maps, by what an image and its label map have in common.
Roles = Tuple[Dict[str, List[Path]], Dict[str, List[Path]]]


def find(tree: Tree) -> Optional[Found]:
    """Find images that have a label map: another image of the same name."""
    pairs, _ = _pairs(tree)
    if not pairs:
        return None
    example = f'{tree.relative(pairs[0][0])} with {tree.relative(pairs[0][1][0])}'
    return Found([maps[0] for _, maps in pairs], numbered(
        '{} image[s] [has|have] a label map, such as ', len(pairs)) + example, 'likely')


def strangers(tree: Tree) -> str:
    """Say that images and label maps lie there, but make no pairs; else ''."""
    pairs, alone = _pairs(tree)
    others = {path for path in set(tree.images) - set(alone) if not _tells_objects(path, tree)}
    if pairs or not alone or not (all(_is_called_image(Path(tree.relative(path)).parent)
                                      for path in others) or _differ(alone, sorted(others))):
        return ''
    if not others:
        few = all(map(_has_few_colours, alone[:PROBED]))
        return (f'{tree.relative(min(alone))} and others are label maps without images. Put the '
                'images beside their folder, into one called images' if few else '')
    if any(OTHER_STEM.search(path.stem) for path in alone):
        return (f'{tree.relative(min(others))} has no label map that ends with '
                '_gtFine_labelTrainIds.png. Write these with csCreateTrainIdLabelImgs of the '
                'package cityscapesscripts')
    by_stem = defaultdict(list)
    for path in alone:
        by_stem[_stem(path, tree)].append(path)
    candidates = {path: by_stem.get(_stem(path, tree), []) for path in sorted(others)}
    likely = max(candidates, key=lambda path: max(
        (len({*path.parts} & {*one.parts}) for one in candidates[path]), default=0))
    if candidates[likely]:
        maps = some([tree.relative(path) for path in candidates[likely]])
        return (f'{tree.relative(likely)} may be the image of {maps}. Put images and label maps '
                'into two folders, such as images and masks, with the same paths below, and one '
                'label map for each image')
    return (f'no label map has the name of an image: {tree.relative(min(others))}, '
            f'{tree.relative(min(alone))}. Call label maps as their images, as a.png beside a.jpg')


def _stem(path: Path, tree: Tree) -> str:
    return _role(Path(tree.relative(path)), own=True)[0].rpartition('/')[2]


def _differ(maps: Sequence[Path], images: Sequence[Path]) -> bool:
    """Tell whether some have few colours, as label maps have, and others many."""
    return all(map(_has_few_colours, maps[:PROBED])) and not any(
        map(_has_few_colours, images[:PROBED]))


def _unlabelled(tree: Tree, pairs: List[Tuple[Path, List[Path]]]) -> List[Path]:
    """Return the images without a label map in folders that hold images with one."""
    labelled = {path for path, _ in pairs}
    used = labelled.union(*(maps for _, maps in pairs))
    folders = {path.parent for path in labelled}
    return [path for path in tree.images if path.parent in folders and path not in used
            and not _role(Path(tree.relative(path)))[1]]


def _is_called_image(folder: Path) -> bool:
    """Tell whether a folder is called as one of images, or only as a part."""
    return bool(_words(folder) & IMAGE_WORDS) or _words(Path(folder.name)) <= PARTS.keys()


def _tells_objects(path: Path, tree: Tree) -> bool:
    return bool(_words(Path(tree.relative(path)).parent) & OBJECT_WORDS)


def _words(path: Path) -> Set[str]:
    return set(re.split(r'[\W_]+', str(path).lower()))


def _pairs(tree: Tree) -> Tuple[List[Tuple[Path, List[Path]]], List[Path]]:
    """Return images with their label maps, and label maps without an image."""
    first = _by_role(tree, False)
    if not first[1]:
        return [], []
    roles = [first, _by_role(tree, True)]
    found = next((one for one in roles if one[0].keys() & one[1].keys()), None) or next(
        (one for one in map(_by_name, roles) if _may_be_pairs(*one)), None)
    if found is None:
        return [], [path for paths in roles[0][1].values() for path in paths]
    images, maps = found
    pairs = [(path, maps[key]) for key, paths in images.items() if key in maps for path in paths]
    alone = [path for key, paths in maps.items() if key not in images for path in paths]
    return pairs, alone


def _by_role(tree: Tree, own: bool) -> Roles:
    """Return images and label maps by what both have in common; see :func:`_role`."""
    images, maps = defaultdict(list), defaultdict(list)
    twins = {(path.parent, path.stem) for path in tree.images if path.suffix.lower() in LOSSY}
    for path in tree.images:
        if _tells_objects(path, tree):
            continue
        key, is_map = _role(Path(tree.relative(path)), own)
        beside = path.suffix.lower() == '.png' and (path.parent, path.stem) in twins
        (maps if is_map or beside else images)[key].append(path)
    # LabelMe writes arrays beside
    for key, paths in maps.items():
        maps[key] = [path for path in paths if path.suffix.lower() not in NUMPY] or paths
    return images, maps


def _may_be_pairs(images: Dict[str, List[Path]], maps: Dict[str, List[Path]]) -> bool:
    """Tell whether files of one name are pairs: ``mask`` and ``none`` may be folders of classes."""
    common = images.keys() & maps.keys()
    return bool(common) and all(
        len(images[key]) == len(maps[key]) == 1 for key in common) and all(
        _has_few_colours(maps[key][0]) for key in sorted(common)[:PROBED])


def _by_name(roles: Roles) -> Roles:
    """Return paths by part and name, whatever the folders are called besides."""
    named = defaultdict(list), defaultdict(list)
    for ours, paths in zip(named, roles):
        for key, files in paths.items():
            *folders, stem = key.split('/')
            ours[f'{part_of_names(folders)}/{stem}'] += files
    return named


def _has_few_colours(path: Path) -> bool:
    """Tell whether an image may be a label map, and is no photograph."""
    try:
        with Image.open(path) as image:
            return image.convert('RGB').getcolors(FEW_COLOURS) is not None
    except Exception:  # PIL's readers raise errors of many kinds at broken files
        return False


def _role(path: Path, own: bool = False) -> Tuple[str, bool]:
    """Return what an image and its label map have in common, and whether this is the map.

    Args:
        path: The image, seen from the root.
        own: Whether names are without what some data sets give images, or label maps, only.
    """
    parts, is_map, stem = [], False, MAP_STEM.sub('', path.stem)
    is_map_stem = stem != path.stem
    for name in path.parts[:-1]:
        words = [word for word in re.split(r'[\W_]+', name.lower()) if word]
        if set(words) & (IMAGE_WORDS | MAP_WORDS):
            is_map = bool(set(words) & MAP_WORDS)
            words = [re.sub('annot$', '', word) for word in words
                     if word not in IMAGE_WORDS | SILENT_WORDS
                     and (word not in MAP_WORDS or word.endswith('annot'))]
            name = '_'.join(word for word in words if word)
        parts.append(name)
    is_map = is_map or is_map_stem
    if own:
        stem = (OWN_MAP_STEM if is_map else OWN_IMAGE_STEM).sub('', stem)
    return '/'.join([part for part in parts if part] + [stem]), is_map


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
    for path in [path for path in alone if not OTHER_STEM.search(path.stem)]:
        findings.warn(str(tree.root), '{} label map[s] [has|have] no image', str(path))
    unlabelled = _unlabelled(tree, pairs)
    for path in [path for path in unlabelled if PARTS_STEM.search(path.stem)]:
        findings.stop(str(tree.root), '{} label map[s] of parts, as full ADE20K has beside those '
                                      'whose colours tell objects apart, and not only classes',
                      str(path), 'Take its benchmark of scene parsing, ADEChallengeData2016')
    for path in unlabelled:
        findings.warn(str(tree.root), '{} image[s] [has|have] no label map and [is|are] left out, '
                                      'though others '
                      'beside them have one', str(path))
    for path, maps in pairs:
        if len(maps) > 1:
            findings.stop(str(tree.root), '{} image[s] [has|have] several label maps',
                          f'{path}: {some([tree.relative(one) for one in maps])}')
    items = [Item(path, label_map=maps[0], source=str(maps[0])) for path, maps in pairs]
    named = None if classes is not None else find_names(tree, by_number=True)
    names = list(classes) if classes is not None else named.names if named else None
    pixels = Pixels(items, findings, str(tree.root))
    if like is not None:
        code = pixels.code_like(like)
    else:
        code = pixels.code(names, named.colours if named else None, _is_ade20ks(tree),
                           ignore_zero)
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
