"""Lists and folders of images with label maps, as MMSegmentation's data sets read them."""
import os
from typing import Dict

from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import IMAGE_ENDINGS, Folder
from mmvssd.engine.data.listings.lines import BESIDES_PATHS, besides, lines_of
from mmvssd.phrases import short

NAME_FORM = 'A line is the NAME of an image below the folder of data_prefix, without its ending'
BESIDES_NAMES = {
    **BESIDES_PATHS,
    r'.*\s-?\d+$': 'with a label, which counts as part of the name',
}


def check_name_list(dataset, where: str, findings: Findings) -> None:
    """Look at a list of names without suffix (MMSegmentation).

    Args:
        dataset: A data set of MMSegmentation's BaseSegDataset with ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    file = dataset.ann_file
    where = f'{where}: {file}'
    seen: Dict[str, int] = {}
    for number, line in lines_of(file, where, findings):
        name = line.strip()
        if name in seen:
            findings.warn(where, '{} line[s] of [an image|images] that [is|are] listed already',
                          f'lines {seen[name]} and {number}: {name}')
        seen.setdefault(name, number)
        path = os.path.join(dataset.data_prefix.get('img_path') or '', name + dataset.img_suffix)
        problem = besides(name, path, BESIDES_NAMES)
        if problem:
            findings.stop(where, f'{{}} line[s] {problem}', f'line {number}: {short(name)}',
                          NAME_FORM)
        elif name.lower().endswith(IMAGE_ENDINGS) and not os.path.exists(path):
            findings.stop(where, '{} name[s] with an ending, the data set adds its img_suffix '
                                 f'{dataset.img_suffix}', f'line {number}: {name}',
                          'Write names without it')


def check_folder(dataset, where: str, findings: Findings, labelled: bool) -> None:
    """Look at folders of images and of label maps (MMSegmentation).

    Args:
        dataset: A data set of MMSegmentation's BaseSegDataset without ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
        labelled: Whether label maps are read.
    """
    images, maps = (dataset.data_prefix.get(key) for key in ('img_path', 'seg_map_path'))
    if not images or not os.path.isdir(images):
        findings.stop(f'{where}: {images}', 'is not a folder',
                      advice='Check data_root and data_prefix')
        return
    where = f'{where}: {images}'
    folder = Folder(images, [dataset.img_suffix], any_case=False)
    if maps and f'{os.path.realpath(maps)}/'.startswith(f'{os.path.realpath(images)}/'):
        folder.passed_over.pop(os.path.splitext(f'x{dataset.seg_map_suffix}')[1], None)
    if not folder.names:
        found = ', '.join(f'{count} that end with {ending}'
                          for ending, count in folder.passed_over.items())
        findings.stop(where, f'holds no image with the suffix {dataset.img_suffix}'
                      + f', but {found}' * bool(found),
                      advice='Check data_prefix and img_suffix')
        return
    folder.check(where, findings)
    if labelled and maps and os.path.isdir(maps):
        _check_pairs(dataset, folder, maps, where, findings)


def _check_pairs(dataset, folder: Folder, maps: str, where: str, findings: Findings) -> None:
    names = {name[:-len(dataset.img_suffix)] for name in folder.names}
    suffix = dataset.seg_map_suffix
    for name in Folder(maps, [suffix], any_case=False).names:
        if name[:-len(suffix)] not in names:
            findings.warn(where, f'{{}} label map[s] in {maps} without an image', name)
