"""Annotations in forms that are not read, told by how they begin, and what to export instead."""
import re
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Pattern

from mmvssd.datasets.formats.tree import Tree
from mmvssd.phrases import some

#: Bytes that are looked at, and files of each ending.
HEAD, PROBED = 65536, 20
READ = 'COCO JSON, YOLO or Pascal VOC'
#: A line of the texts of KITTI, of the OIDv4 toolkit, of VisDrone and of DOTA.
KITTI = rb'^[A-Za-z_]+( -?[\d.]+){14,15}\s*$'
OIDV4 = rb'^[A-Za-z][\w ]*( \d+\.\d+){4}\s*$'
VISDRONE = rb'^(-?[\d.]+,){6,}-?[\d.]*\s*$'
DOTA = rb'^(imagesource:|gsd:|(-?[\d.]+ ){8}\S+ [012]\s*$)'


class Kind(NamedTuple):
    """A form of annotations.

    Attributes:
        endings: Of its files.
        mark: What is found near the beginning of such a file, and of no other.
        name: What such a file is, as the rest of the sentence "It is ...".
        advice: What to do.
        of_one_image: Whether each file has the name of an image.
    """

    endings: tuple
    mark: Pattern
    name: str
    advice: str
    of_one_image: bool = False


def _keys(*names: str) -> Pattern:
    return re.compile(rf'"({"|".join(names)})"\s*:'.encode())


#: The first one that fits counts.
KINDS = (
    Kind(('.xml', ), re.compile(rb'<annotations>.*?<(meta|image)\b', re.DOTALL),
         "CVAT's own XML", 'Export from CVAT as COCO, Pascal VOC, YOLO, or Segmentation mask, '
         'with images'),
    Kind(('.json', ), _keys('from_name', 'rectanglelabels', 'polygonlabels', 'brushlabels',
                            'lead_time'),
         "Label Studio's own JSON", 'Export from Label Studio objects as COCO or YOLO with images, '
         'and choices as CSV'),
    Kind(('.json', ), _keys('_via_settings', '_via_img_metadata', 'shape_attributes'),
         "the VGG Image Annotator's own JSON (VIA)", 'Export from it in COCO format'),
    Kind(('.json', ), _keys('classTitle', 'geometryType', 'labelerLogin'),
         "Supervisely's own JSON", f'Export from Supervisely as {READ}'),
    Kind(('.json', '.ndjson', '.jsonl'), _keys('data_row', 'Labeled Data', 'media_attributes'),
         "Labelbox's own JSON", 'Convert it to COCO JSON'),
    Kind(('.json', ), _keys('dm_format_version', 'label_groups'),
         "Datumaro's own JSON", f'Export as {READ} instead'),
    Kind(('.json', ), _keys('box2d', 'poly2d'), "Scalabel's JSON, as of BDD100K",
         'Convert it to COCO JSON'),
    Kind(('.json', ), re.compile(rb'"coordinates"\s*:\s*\{'), "Create ML's JSON",
         f'Export as {READ} instead'),
    Kind(('.txt', ), re.compile(KITTI, re.MULTILINE), 'a text of KITTI',
         f'Convert it to {READ}', True),
    Kind(('.txt', ), re.compile(DOTA, re.MULTILINE), 'a text of DOTA, of turned boxes',
         'Convert it to YOLO, with the four corners of each box as a polygon', True),
    Kind(('.txt', ), re.compile(OIDV4, re.MULTILINE), 'a text of classes and boxes in pixels, as '
         'of the OIDv4 toolkit', f'Convert it to {READ}', True),
    Kind(('.txt', ), re.compile(VISDRONE, re.MULTILINE), 'a text of numbers with commas, as of '
         'VisDrone', f'Convert it to {READ}', True),
)
#: A list that also lies beside folders of classes.
LIST = Kind(('.txt', ), re.compile(rb'^\S.*\.(jpe?g|png|bmp|tiff?|webp)[ \t]+\d+\s*$',
                                   re.MULTILINE | re.IGNORECASE),
            'a list of images and numbers',
            'Make it a CSV file: image,label in its first line, and commas in place of blanks')


def foreign_annotations(tree: Tree, with_lists: bool = True) -> str:
    """Say which annotations below a folder are of a form that is not read; else ''."""
    for kind in (*KINDS, LIST) if with_lists else KINDS:
        files = [file for ending in kind.endings for file in tree.annotations(ending)]
        if kind.of_one_image:
            files = [file for file in files if file.stem in tree.by_stem]
        for file in files[::max(1, len(files) // PROBED)]:
            if kind.mark.search(_head(file)):
                return f'{tree.relative(file)} is {kind.name}, which is not read. {kind.advice}'
    for file in tree.annotations('.json'):
        other = _other_coco(tree.json(file))
        if other:
            return f'{tree.relative(file)} {other}'
    return ''


def _head(file: Path) -> bytes:
    try:
        with open(file, 'rb') as content:
            return content.read(HEAD)
    except OSError:
        return b''


def _other_coco(content: Any) -> Optional[str]:
    """Say what a JSON file in COCO's form holds in place of objects."""
    annotations = content.get('annotations') if isinstance(content, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if not isinstance(first, dict):
        return None
    if 'segments_info' in first:
        return ('holds panoptic segments, which are not read. Take the instances for detection, '
                'or label maps of classes for segmentation')
    if 'caption' in first:
        return 'holds captions, and no objects. Add the file of instances for detection'
    return None


#: What holds images or annotations and is not looked into, by ending.
PACKED: Dict[str, str] = {
    **dict.fromkeys(('.zip', '.tar', '.tgz', '.gz', '.bz2', '.xz', '.7z', '.rar'),
                    'an archive. Unpack it'),
    **dict.fromkeys(('.parquet', '.arrow'), 'a table with the images in it. Write these as files, '
                    'such as a folder for each class'),
    **dict.fromkeys(('.tfrecord', '.record'), f'a file of TensorFlow. Export as {READ} instead'),
}


def packed(tree: Tree) -> str:
    """Say which files may hold the data, but are not looked into; else ''."""
    files = tree.annotations(*PACKED)
    if not files:
        return ''
    kind = PACKED[files[0].suffix.lower()]
    alike = [tree.relative(file) for file in files if PACKED[file.suffix.lower()] == kind]
    return f'{some(alike)}: {kind}'
