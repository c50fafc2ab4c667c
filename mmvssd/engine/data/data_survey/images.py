"""Images and label maps of a data set that was built: their headers, sizes and values."""
from typing import Any, Dict, List

from torch import nn

from mmvssd.engine.data import bands
from mmvssd.engine.data.checks import steps_below, steps_of
from mmvssd.engine.data.data_survey.leaves import Leaf
from mmvssd.engine.data.data_survey.readers import is_elsewhere
from mmvssd.engine.data.file_facts import MISSING, FileFacts, header, label_map, upright_size
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.heads import heads_of, sizes_of
from mmvssd.engine.data.label_maps import LabelMaps
from mmvssd.phrases import of_all

#: Share of images of another size than in the annotations from which on it is no slip.
FEW = 0.01
#: Images that PIL cannot read and that the pipeline's own step is tried on.
MOST_TRIED = 100
#: What becomes of images that a training replaces.
REPLACED = ', [another one is|others are] trained on in [its|their] place'
UNREADABLE = '{} image[s] cannot be read' + REPLACED


def check_images(leaf: Leaf, files: FileFacts, findings: Findings) -> Dict[str, dict]:
    """Look at the images' headers; return those that were read, by path."""
    paths = [entry['img_path'] for _, entry in leaf.entries]
    if not paths or is_elsewhere(leaf.dataset):
        return {}
    facts = _headers(leaf, paths, files, findings)
    turned = _honours_exif(leaf.dataset)
    missing = [path for path in paths if facts.get(path) == MISSING]
    for path in missing:
        findings.stop(leaf.where, '{} image[s] [is|are] not there', f'{path} is not there',
                      'Check data_root, data_prefix and the suffixes of the files')
    _check_unreadable(leaf, [path for path in dict.fromkeys(paths)
                             if path in facts and facts[path] is None], findings)
    known = {path: fact for path, fact in facts.items() if isinstance(fact, dict)}
    _check_sizes(leaf, known, turned, findings)
    findings.looked_at.append(
        f'{leaf.phase}: headers of {of_all(len(facts), len(leaf.dataset), "image")}')
    return known


def _headers(leaf: Leaf, paths: List[str], files: FileFacts, findings: Findings) -> Dict[str, Any]:
    load = bands.loader_of(steps_of(leaf.dataset))
    if load is None:
        return files.read('header', header, paths)
    facts = bands.headers(load, paths, files)
    wrong = {path: fact['wrong'] for path, fact in facts.items() if fact and 'wrong' in fact}
    for path, reason in wrong.items():
        findings.stop(leaf.where, bands.WRONG, reason)
        del facts[path]
    bands.check_values(load, [path for path in paths if path in facts], leaf.where, leaf.phase,
                       files, findings)
    return facts


def _check_unreadable(leaf: Leaf, paths: List[str], findings: Findings) -> None:
    for path in paths[:MOST_TRIED]:  # PIL does not know all formats
        reason = fault_of_loading(leaf, path)
        if reason:
            note_unreadable(leaf, 'cannot be read', reason, findings)


def fault_of_loading(leaf: Leaf, path: str) -> str:
    """Say why the pipeline's own step cannot read an image, or '' if it can, or is not known."""
    load: Any = next(iter(steps_of(leaf.dataset)), None)
    if type(load).__name__ not in ('LoadImageFromFile', 'LoadBands'):
        return ''
    try:
        load(dict(img_path=path))
    except Exception as error:  # of its decoder
        return str(error).partition('; write the file anew')[0]
    return ''


def note_unreadable(leaf: Leaf, what: str, example: str, findings: Findings,
                    advice: str = '') -> None:
    """Note an image that cannot be read: a training takes another one, a score stops.

    Args:
        what: What is said of it, such as ``'cannot be read'``.
        example: Its path, or more.
    """
    if leaf.phase == 'train':
        findings.warn(leaf.where, f'{{}} image[s] {what}{REPLACED}', example, advice)
    else:
        findings.stop(leaf.where, f'{{}} image[s] {what}, and a score is that of all images',
                      example, advice)


def _check_sizes(leaf: Leaf, headers: Dict[str, dict], turned: bool,
                 findings: Findings) -> None:
    wrong: Dict[str, List[str]] = {}
    for _, entry in leaf.entries:
        fact, given = headers.get(entry['img_path']), (entry.get('width'), entry.get('height'))
        if fact is None or None in given:
            continue
        size = upright_size(fact) if turned else tuple(fact['size'])
        if given != size:
            kind = _kind_of_size(given, size, fact, turned)
            wrong.setdefault(kind, []).append(
                f'{entry["img_path"]}: {given[0]} x {given[1]}, the file has '
                f'{size[0]} x {size[1]}')
    for kind, examples in wrong.items():
        note = findings.stop if len(examples) > FEW * len(headers) else findings.warn
        for example in examples:
            note(leaf.where, f'{{}} image[s] {kind}', example)


def check_label_maps(leaf: Leaf, headers: Dict[str, dict], model: nn.Module, files: FileFacts,
                     findings: Findings) -> None:
    """Look at label maps as the pipeline reads them, beside the headers of their images."""
    load = next((step for step in steps_below(getattr(leaf.dataset, 'pipeline', None))
                 if type(step).__name__ == 'LoadAnnotations'
                 and type(step).__module__.startswith('mmseg.')), None)
    pairs = [(entry['img_path'], entry['seg_map_path']) for _, entry in leaf.entries
             if entry.get('seg_map_path')]
    head = next((head for path, head in heads_of(model)
                 if path == 'decode_head' and sizes_of(head)), None)
    if load is None or not pairs or head is None or is_elsewhere(leaf.dataset):
        findings.not_looked_at.append(f'{leaf.where}: its label maps')
        return
    paths = [path for _, path in pairs]
    facts = files.read('label map', label_map, paths)
    for path in paths:
        if facts.get(path) == MISSING:
            findings.stop(leaf.where, '{} label map[s] [is|are] not there', f'{path} is not there',
                          'Check data_prefix and seg_map_suffix')
    complete = len(facts) == len(leaf.dataset)
    maps = LabelMaps(leaf.dataset, load, max(sizes_of(head)),
                     getattr(head, 'ignore_index', 255), leaf.where, findings)
    maps.check(headers, facts, pairs, _honours_exif(leaf.dataset), complete)
    findings.looked_at.append(
        f'{leaf.phase}: {of_all(len(facts), len(leaf.dataset), "label map")}'
        + ', a sample' * (not complete))


def _honours_exif(dataset) -> bool:
    """Tell whether the first step turns an image as its EXIF orientation says."""
    load = next(iter(steps_of(dataset)), None)
    return (getattr(load, 'color_type', 'color') in ('color', 'grayscale')
            and getattr(load, 'imdecode_backend', 'cv2') in (None, 'cv2', 'pillow'))


def _kind_of_size(given: tuple, size: tuple, fact: dict, turned: bool) -> str:
    if turned and given == tuple(fact['size']):
        return ('[has|have] the size of the annotations as stored, but an EXIF orientation turns '
                '[it|them] when they are read. Turn the files, or load with '
                "color_type='color_ignore_orientation'")
    if given == size[::-1]:
        return '[has|have] width and height exchanged in the annotations'
    return '[is|are] of another size than the annotations say'
