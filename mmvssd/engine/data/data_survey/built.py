"""Look at data sets as they were built: names, images, label maps and batches."""
from functools import partial
from typing import Any, Dict, List, Optional

from torch import nn

from mmvssd.checkpoint import unwrapped
from mmvssd.engine.data import batches, names
from mmvssd.engine.data.data_survey.images import check_images, check_label_maps
from mmvssd.engine.data.data_survey.leaves import PHASES, Leaf
from mmvssd.engine.data.data_survey.overlap import MOST_COMPARED, check_apart
from mmvssd.engine.data.data_survey.readers import reads_label_maps
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import Findings
from mmvssd.engine.data.heads import has_own_classes, heads_of, learner_of, sizes_of
from mmvssd.phrases import counted


class Built:
    """Data sets as they were built, with the model that they are for.

    Args:
        model: Of one of the hosts; it may be wrapped.
        loaders: Data loaders by phase; a phase may have none.
        findings: Where faults and doubts are noted.
        facts: Of the files.
        compared: Images of validation that are compared with those of training.
    """

    def __init__(self, model: nn.Module, loaders: Dict[str, Any], findings: Findings,
                 facts: FileFacts, compared: int = MOST_COMPARED):
        self.compared = compared
        self.loaders, self.findings, self.facts = loaders, findings, facts
        self.model = learner_of(unwrapped(model))

    def check(self, leaves: List[Leaf]) -> None:
        """Look at names, images, label maps and batches."""
        for leaf in leaves:
            self.findings.look_at(leaf.where, partial(self._check_names, leaf))
        self.findings.look_at('classes of several phases', partial(self._check_phases, leaves))
        headers: Dict[str, dict] = {}
        for leaf in sorted(leaves, key=lambda leaf: leaf.phase == 'train'):
            self.findings.look_at(leaf.where, lambda leaf=leaf: headers.update(
                check_images(leaf, self.facts, self.findings)))
            if reads_label_maps(leaf.dataset) and leaf.labelled:
                self.findings.look_at(leaf.where, partial(
                    check_label_maps, leaf, headers, self.model, self.facts, self.findings))
        for phase in PHASES:
            self.findings.look_at(f'{phase}_dataloader', partial(
                self._check_batches, phase, leaves, headers))
        self.findings.look_at('images of several phases', partial(
            check_apart, leaves, self.facts, self.findings, self.compared))
        self.facts.save()

    def _check_names(self, leaf: Leaf) -> None:
        classes = names.classes_of(leaf.dataset)
        if classes is None:
            self._check_labels(leaf, None)
            return
        if self._closed(leaf):
            names.check_heads(self.model, classes, leaf.where, self.findings)
        self._check_labels(leaf, classes)
        self.findings.looked_at.append(f'{leaf.phase}: names of {counted(len(classes), "class")}')

    def _closed(self, leaf: Leaf) -> bool:
        """Tell whether the heads have the classes of the data, not those of texts or things."""
        return has_own_classes(self.model) and 'thing_classes' not in leaf.dataset.metainfo

    def _check_labels(self, leaf: Leaf, classes: Optional[List[str]]) -> None:
        """Compare the labels of MMPreTrain's images with the classes and the head."""
        labels = [(entry['gt_label'], entry['img_path']) for _, entry in leaf.entries
                  if isinstance(entry.get('gt_label'), int)]
        if not labels:
            return
        sizes = [size for _, head in heads_of(self.model) for size in sizes_of(head)]
        fitting = min([*sizes, *([len(classes)] if classes else [])], default=None)
        for label, path in labels:
            if fitting is not None and label >= fitting:
                self.findings.stop(leaf.where, f'{{}} image[s] with labels that no class has, 0 to '
                                               f'{fitting - 1} fit', f'{path}: {label}')
        if classes and leaf.phase == 'train' and len(labels) == len(leaf.dataset):
            occurring = {label for label, _ in labels}
            names.check_occurrence({name: index in occurring for index, name in
                                    enumerate(classes)}, classes, leaf.where, self.findings)

    def _check_phases(self, leaves: List[Leaf]) -> None:
        classes: Dict[str, List[List[str]]] = {}
        for leaf in leaves:
            found = names.classes_of(leaf.dataset)
            if found is not None and self._closed(leaf):
                classes.setdefault(leaf.phase, []).append(found)
        names.check_phases(classes, self.findings)

    def _check_batches(self, phase: str, leaves: List[Leaf], headers: Dict[str, dict]) -> None:
        loader = self.loaders.get(phase)
        if loader is None:
            return
        where = f'{phase}_dataloader'
        if phase == 'train':
            batches.check_training(loader, self.model, where, self.findings)
            return
        for leaf in leaves:
            if leaf.dataset is loader.dataset:
                sizes = {index: tuple(headers[entry['img_path']]['size'])
                         for index, entry in leaf.entries if entry['img_path'] in headers}
                batches.check_sizes(loader, self.model, sizes, where, self.findings)
