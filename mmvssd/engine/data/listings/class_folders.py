"""Folders with a subfolder of images for each class, as MMPreTrain's data sets read them."""
import os
from typing import List

from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.listings.folders import Folder, is_hidden
from mmvssd.phrases import counted, numbered, some

#: Names of folders of splits, which are no classes.
SPLITS = {'train', 'training', 'val', 'valid', 'validation', 'test', 'testing'}


def check_class_folders(dataset, where: str, findings: Findings) -> None:
    """Look at a folder with a subfolder of images for each class (MMPreTrain).

    Args:
        dataset: A data set of MMPreTrain's CustomDataset without ``ann_file``.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    path = dataset.img_prefix
    where = f'{where}: {path}'
    if not os.path.isdir(path):
        findings.stop(where, 'is not a folder', advice='Check data_root and data_prefix')
        return
    folder = Folder(path, dataset.extensions)
    folder.check(where, findings)
    names = folder.subfolders()
    if not names:
        what = (numbered('{} image[s] [lies|lie] in it and no folders of classes', folder.read[''])
                if folder.read['']
                else 'holds no image')
        findings.stop(where, what, advice='Make a folder for each class, or name a list with '
                                          'ann_file')
        return
    if not folder.read:
        findings.stop(where, f'holds no image that ends with {", ".join(dataset.extensions)}')
        return
    _check_class_names(names, folder, where, findings)
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, (list, tuple)):
        _compare(list(classes), names, where, findings)


def _check_class_names(names: List[str], folder: Folder, where: str, findings: Findings) -> None:
    for name in filter(is_hidden, names):
        findings.stop(where, '{} hidden folder[s] [counts|count] as classes', name,
                      'They move the labels of others; remove them')
    if len(names) > 1 and set(map(str.lower, names)) <= SPLITS:
        findings.stop(where, f'the folders of splits {", ".join(names)} count as classes',
                      advice='Add the split to data_prefix')
    elif len(names) == 1:
        findings.warn(where, f'there is one class, {names[0]}')
    for name in names:
        if not folder.read.get(name) and not is_hidden(name):
            findings.warn(where, '{} folder[s] of classes without an image', name)
    if folder.read.get(''):
        findings.warn(where, numbered('{} image[s] [lies|lie] beside the folders of classes and '
                                      '[is|are] not read', folder.read['']))


def _compare(classes: List[str], names: List[str], where: str, findings: Findings) -> None:
    """Compare the recipe's classes with the folders, which are numbered in sorted order."""
    if len(classes) != len(names):
        apart = sorted(set(classes) ^ set(names), key=str)
        findings.stop(where, f'has {counted(len(names), "folder")}, the recipe has '
                             f'{counted(len(classes), "class")}; only one of both has '
                             f'{some(apart)}')
        return
    common = set(classes) & set(names)
    for index, (name, folder) in enumerate(zip(classes, names)):
        if name in common and name != folder:
            findings.stop(where, '{} class[es] [has|have] the place of another folder',
                          f'class {index} is {name}, folder {index} is {folder}',
                          'Folders are numbered in sorted order; sort metainfo.classes')
        elif common and name != folder:
            findings.warn(where, "{} folder[s] of other names than the recipe's class",
                          f'class {index} is {name}, its folder {folder}')
