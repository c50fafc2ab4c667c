"""Look at the files of a recipe's data sets before anything is built of them."""
import os
from functools import partial
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmengine.registry import DATASETS

from mmvssd.engine.data import batches, coco, listings, names
from mmvssd.engine.data.checks import dicts_of, is_remote, needs_labels
from mmvssd.engine.data.data_survey.readers import reads_classes, reads_coco, reads_label_maps
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import STOP, Findings, from_json
from mmvssd.host_internals import filled
from mmvssd.phrases import counted, of_all


class Files:
    """The files of a recipe's data sets, before anything is built of them."""

    def __init__(self, cfg, findings: Findings, facts: FileFacts):
        self.cfg, self.findings, self.facts = cfg, findings, facts

    def check(self, phases: Sequence[str]) -> None:
        """Look at the settings of loaders and the files of data sets."""
        for phase in phases:
            loader = self.cfg[f'{phase}_dataloader']
            batches.check_settings(loader, f'{phase}_dataloader', self.findings)
            kept = [self._check_dataset(phase, entry) for entry in _data_sets_of(loader)]
            self._check_annotated(phase, [one for one in kept if one is not None])
        self.facts.save()

    def _check_dataset(self, phase: str, entry: dict) -> Optional[coco.Summary]:
        name = f'{phase}_dataloader, {getattr(entry["type"], "__name__", entry["type"])}'
        metainfo = entry.get('metainfo')
        if isinstance(metainfo, dict):
            names.check_setting(metainfo.get('classes'), name, self.findings)
        if any(map(is_remote, dicts_of(entry))):
            self.findings.not_looked_at.append(f'{name}: its files are elsewhere')
            return None
        found: List[coco.Summary] = []
        self.findings.look_at(f'{name}: its files',
                              lambda: found.extend(self._look(phase, entry, name)))
        return found[0] if found else None

    def _look(self, phase: str, entry: dict, name: str) -> Iterator[coco.Summary]:
        # the host resolves its paths itself
        dataset = DATASETS.build(dict(entry, lazy_init=True, pipeline=[]))
        if reads_coco(dataset):
            yield self._check_coco(phase, dataset, name, entry.get('indices'))
        elif reads_classes(dataset) and dataset.with_label:
            look = (listings.check_class_list if dataset.ann_file
                    else listings.check_class_folders)
            look(dataset, name, self.findings)
        elif reads_label_maps(dataset):
            if dataset.ann_file and not os.path.isdir(dataset.ann_file):
                listings.check_name_list(dataset, name, self.findings)
            else:
                listings.check_folder(dataset, name, self.findings, self._labelled(phase))
        elif not reads_classes(dataset):
            self.findings.not_looked_at.append(f'{name}: its files, which are of another kind')

    def readable(self, phases: Sequence[str]) -> Iterator[Tuple[str, bool, Any]]:
        """Yield the data sets that can be built, faults and all, with their phase."""
        for phase in phases:
            for entry in _data_sets_of(self.cfg[f'{phase}_dataloader']):
                try:
                    yield phase, self._labelled(phase), DATASETS.build(dict(entry))
                except Exception:  # of the faults that were found
                    found: List[Any] = []
                    Findings().look_at('', partial(self._add_listed, entry, found))
                    yield from ((phase, self._labelled(phase), dataset) for dataset in found)

    def _add_listed(self, entry: dict, found: List[Any]) -> None:
        """Add a data set of the images that a COCO file or a list names, faults left out."""
        dataset = DATASETS.build(dict(entry, lazy_init=True))
        if reads_coco(dataset):
            folder = dataset.data_prefix.get('img') or ''
            found.append(filled(dataset, [
                dict(image, img_path=os.path.join(folder, image['file_name']))
                for image in coco.read_json(dataset.ann_file)['images']]))
        elif reads_classes(dataset) and dataset.ann_file:
            found.append(filled(dataset, listings.listed_images(dataset)))

    def _labelled(self, phase: str) -> bool:
        return phase == 'train' or any(map(needs_labels, dicts_of(
            self.cfg.get(f'{phase}_evaluator'))))

    def _check_coco(self, phase: str, dataset, name: str,
                    indices: Union[int, Sequence[int], None]) -> coco.Summary:
        where = f'{name}: {dataset.ann_file}'
        masks = any(entry.get('with_mask') for entry in dicts_of(
            self.cfg[f'{phase}_dataloader']))
        metrics = [entry for entry in dicts_of(self.cfg.get(f'{phase}_evaluator'))
                   if str(entry.get('type')).rpartition('.')[2].startswith('Coco')
                   or getattr(entry.get('type'), '__name__', '').startswith('Coco')]
        scored = phase != 'train' and self._labelled(phase) and bool(metrics)
        masks |= scored and any('segm' in (entry.get('metric') or ()) for entry in metrics)
        use = coco.Use(masks, scored, dataset.data_prefix.get('img'))
        summary = self._summary(dataset.ann_file, where, use)
        names.check_categories(dataset, summary, where, self.findings)
        classes = names.classes_of(dataset)
        if phase == 'train' and summary.annotations and classes:
            names.check_occurrence(summary.boxes, classes, where, self.findings)
        crowds = f'{summary.crowds} of crowds' + ', not trained on' * (phase == 'train')
        self.findings.looked_at.append(
            f'{phase}: {counted(summary.annotations, "annotation")}'
            + f' ({crowds})' * bool(summary.crowds)
            + f' of {counted(len(summary.images), "image")} in {dataset.ann_file}')
        for metric in metrics if scored else ():
            self._check_scored_file(metric.get('ann_file'), dataset, summary, phase, use)
            if metric.get('ann_file') and indices is not None:
                self._check_scored_part(indices, len(summary.images), name)
        return summary

    def _check_scored_part(self, indices: Union[int, Sequence[int]], count: int,
                           name: str) -> None:
        """Warn of images that are scored though no model sees them."""
        taken = min(indices, count) if isinstance(indices, int) else len(set(indices))
        if taken < count:
            self.findings.warn(
                name, f'indices takes {of_all(taken, count, "image")}, and the evaluator scores '
                'all of its ann_file: those without a prediction lower the score',
                advice='Write a file of only these images, for the data set and the evaluator')

    def _check_scored_file(self, file: Optional[str], dataset, summary: coco.Summary, phase: str,
                           use: coco.Use) -> None:
        """Look at a file that only the evaluator reads."""
        if not file or os.path.realpath(file) == os.path.realpath(dataset.ann_file):
            return
        where = f'{phase}_evaluator: {file}'
        other = self._summary(file, where, use)
        names.check_categories(_Named(file, dataset.metainfo), other, where, self.findings)
        if set(other.images) != set(summary.images):
            self.findings.warn(where, f'lists other images than {dataset.ann_file}, the data set '
                                      'that is scored')

    def _summary(self, file: str, where: str, use: coco.Use) -> coco.Summary:
        """Look at an annotation file; at one without faults only once."""
        findings = Findings(self.findings.examples)

        def look(path: str) -> dict:
            summary = coco.check_file(coco.read_json(path), path, where, use, findings)
            return dict(summary=summary, findings=findings.as_json())

        entry = self.facts.read_one(f'{where}, {use}', look, file,
                                    keep=lambda entry: not findings.of(STOP))
        self.findings.add_all(from_json(entry['findings']))
        return coco.Summary(*entry['summary'])

    def _check_annotated(self, phase: str, summaries: List[coco.Summary]) -> None:
        """Note files without annotations, unless others have some: images may show nothing."""
        if summaries and self._labelled(phase) and not any(s.listed for s in summaries):
            for summary in summaries:
                self.findings.stop(f'{phase}_dataloader, CocoDataset',
                                   f'{summary.file} holds no annotations, which COCO files list '
                                   "under 'annotations'")


class _Named(NamedTuple):
    """What :func:`names.check_categories` needs of a data set."""

    ann_file: str
    metainfo: dict


def _data_sets_of(loader: dict) -> Iterator[dict]:
    """Yield the settings of the data sets in a loader that read files themselves."""
    for entry in dicts_of(loader.get('dataset')):
        if 'type' in entry and {'ann_file', 'data_root', 'data_prefix', 'img_prefix'} & set(entry):
            yield entry
