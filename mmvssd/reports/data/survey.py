"""Look at all data of a recipe, as the first step of a training does, and at more than it."""
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any, Dict, Iterator, List, Sequence

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from mmvssd.cli.launch import require
from mmvssd.cli.settings import naming_settings
from mmvssd.engine.data.checks import absent_data, dicts_of, needs_labels
from mmvssd.engine.data.data_faults import faults_of
from mmvssd.engine.data.data_survey.built import Built
from mmvssd.engine.data.data_survey.files import Files
from mmvssd.engine.data.data_survey.leaves import PHASES, Leaf, leaves_in
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import STOP, Findings
from mmvssd.engine.randomness import RandomState
from mmvssd.errors import ConfigError
from mmvssd.phrases import numbered
from mmvssd.reports.data import doubts
from mmvssd.reports.data.contents import Part, part_of
from mmvssd.reports.data.samples import Sample, samples_of

#: Places that a finding of a page names.
EXAMPLES = 20


@dataclass
class DataReport:
    """What is known of a recipe's data.

    Args:
        findings: Faults and doubts.
        parts: What each part of the data holds.
        samples: Pictures of samples, by phase.
        same: Phases whose data are those of another one.
        seconds: Time that it took.
    """

    findings: Findings
    parts: List[Part]
    samples: Dict[str, List[Sample]]
    same: Dict[str, str]
    seconds: float

    @property
    def is_sensible(self) -> bool:
        """Tell whether a training may begin."""
        return not self.findings.of(STOP)


def examine(cfg: Config, samples: int = 12, seed: int = 0) -> DataReport:
    """Look at the data of all phases of a recipe.

    Args:
        cfg: The recipe.
        samples: Samples of each phase that are put through its pipeline.
        seed: Which samples, and how they are augmented.

    Raises:
        ConfigError: The recipe has no training data, or no model can be built of it.
    """
    require(cfg, 'train_dataloader', 'model')
    begin = time.monotonic()
    state = RandomState(cpu_only=True)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmengine'):
        try:
            with naming_settings(cfg, everything=True):
                model = MODELS.build(_model_of(cfg))
            return _Examination(cfg, model).report(samples, seed, begin)
        finally:
            state.restore()


def _model_of(cfg: Config) -> dict:
    """Return the model's settings with those that MMEngine adds to them."""
    settings = dict(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    return settings


class _Examination:
    """The data of one recipe while they are looked at."""

    def __init__(self, cfg: Config, model):
        self.cfg, self.model = cfg, model
        self.findings = Findings(EXAMPLES)
        self.facts = FileFacts(None, math.inf)
        self.loaders: Dict[str, Any] = {}
        self.same: Dict[str, str] = {}

    def report(self, samples: int, seed: int, begin: float) -> DataReport:
        leaves = self._leaves(list(self._phases()))
        built = Built(self.model, self.loaders, self.findings, self.facts, compared=len(
            [entry for leaf in leaves for entry in leaf.entries]) or 1)
        built.check(leaves)
        parts = [part for phase in PHASES for part in self._part(phase, leaves)]
        self.findings.look_at('the data: its doubtful images', partial(
            doubts.check_images, leaves, self.facts, self.findings))
        self.findings.look_at('the data: its classes', partial(
            doubts.check_parts, parts, self.findings))
        pictures = {phase: samples_of(loader, phase, self.model, samples, seed, self.findings)
                    for phase, loader in self.loaders.items()}
        return DataReport(self.findings, parts, pictures, self.same, time.monotonic() - begin)

    def _phases(self) -> Iterator[str]:
        """Yield the phases that have data of their own, whose files are where the recipe says."""
        seen: Dict[str, dict] = {}
        for phase in PHASES:
            loader = self.cfg.get(f'{phase}_dataloader')
            if not isinstance(loader, dict):
                continue
            # to validate on what is trained on is a doubt, which is found by its images
            twin = next((other for other, one in seen.items() if other != 'train'
                         and one.get('dataset') == loader.get('dataset')), None)
            if twin is not None:
                self.same[phase] = twin
                continue
            seen[phase] = loader
            absent = list(absent_data(self.cfg, phase))
            for what, fault in absent:  # a training does not need data to test on
                (self.findings.warn if phase == 'test' else self.findings.stop)(what, fault)
            if not any(what.startswith(f'{phase}_dataloader') for what, _ in absent):
                yield phase

    def _leaves(self, phases: Sequence[str]) -> List[Leaf]:
        files = Files(self.cfg, self.findings, self.facts)
        files.check(phases)
        leaves: List[Leaf] = []
        for phase in phases:
            try:
                loader = Runner.build_dataloader(self.cfg[f'{phase}_dataloader'], seed=0)
            except Exception as error:  # of the data, or of a setting
                self._note_failure(phase, error)
                found = [(labelled, dataset)
                         for _, labelled, dataset in files.readable([phase])]
            else:
                self.loaders[phase] = loader
                labelled = phase == 'train' or any(map(needs_labels, dicts_of(
                    self.cfg.get(f'{phase}_evaluator'))))
                found = [(labelled, loader.dataset)]
            for labelled, dataset in found:
                leaves += leaves_in(dataset, phase, labelled, self.findings)
        return leaves

    def _note_failure(self, phase: str, error: Exception) -> None:
        """Note that a data set cannot be built, unless it is for a fault that was found."""
        if not self.findings.of(STOP):
            try:
                with naming_settings(self.cfg, everything=True):
                    raise error
            except (ConfigError, OSError, ValueError, RuntimeError) as explained:
                self.findings.stop(f'{phase}_dataloader', f'cannot be built: {explained}')

    def _part(self, phase: str, leaves: Sequence[Leaf]) -> Iterator[Part]:
        own = [leaf for leaf in leaves if leaf.phase == phase]
        parts: List[Part] = []
        if own:
            self.findings.look_at(f'{phase}_dataloader: its contents', lambda: parts.append(
                part_of(phase, own, self.facts)))
        for leaf in own:
            for kind, fault in faults_of(leaf.dataset).items():
                self.findings.warn(leaf.where, numbered(kind, fault.count), fault.first)
        yield from parts
