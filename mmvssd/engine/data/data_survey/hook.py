"""A survey of whole data sets before a run: faults stop it, doubts are warned of, all at once."""
import logging
import math
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmvssd.engine.data import batches, names
from mmvssd.engine.data.data_survey.built import Built
from mmvssd.engine.data.data_survey.files import Files
from mmvssd.engine.data.data_survey.leaves import (
    PHASES,
    leaves_in,
    leaves_of,
    loaders_of,
)
from mmvssd.engine.data.file_facts import FileFacts
from mmvssd.engine.data.findings import STOP, WARN, Findings
from mmvssd.errors import DataError
from mmvssd.host_internals import built_loop
from mmvssd.registry import HOOKS

#: File of the work dir that remembers what was read.
CACHE = 'data_survey.json'


@HOOKS.register_module()
class DataSurveyHook(Hook):
    """Look at the data sets of a run as wholes, before they are read and before the first step.

    The first process looks, the others wait for its verdict. Data sets of a kind that it does not
    know are named in the log as not looked at.

    Args:
        seconds: Time for reading images' headers and label maps. What is left then is not
            looked at, which the log says; files that did not change are not read again.
    """

    def __init__(self, seconds: float = 45.):
        self.seconds = seconds
        self.findings = Findings()
        self._surveyed: set = set()

    def looked_at(self, phase: str) -> str:
        """Return what was looked at of a phase, and what was not."""
        parts = [text.partition(': ')[2] for text in self.findings.looked_at
                 if text.startswith(f'{phase}: ')]
        parts += [f'not {text}' for text in self.findings.not_looked_at
                  if text.startswith(f'{phase}_')]
        return '; '.join(parts)

    def look_before_building(self, runner) -> None:
        """Have annotation files, lists and folders looked at before a loop reads them."""
        for phase in PHASES:
            name = f'build_{phase}_loop'
            setattr(runner, name, partial(self._build, runner, phase, getattr(runner, name)))

    def _look_at_built(self, runner) -> None:
        built = self._built(runner)
        built.check(list(leaves_of(runner, self.findings)))
        for phase in ('val', 'test'):
            metrics = getattr(getattr(built_loop(runner, phase), 'evaluator', None), 'metrics', ())
            names.check_top_k(metrics, built.model, f'{phase}_evaluator', self.findings)

    def _built(self, runner) -> Built:
        return Built(runner.model, loaders_of(runner), self.findings,
                     FileFacts(_cache_of(runner), self.seconds))

    def _build(self, runner, phase: str, build: Callable, loop: Any) -> Any:
        phases = ('train', 'val') if phase == 'train' else (phase, )
        phases = [one for one in phases if one not in self._surveyed and isinstance(
            runner.cfg.get(f'{one}_dataloader'), dict)]
        if isinstance(loop, dict) and phases:
            self._surveyed.update(phases)
            _decide_together(self.findings, partial(self._look_at_files, runner, phases))
        built = build(loop)
        # before a schedule is made for so many
        _decide_together(self.findings, lambda: batches.check_count(
            getattr(built, 'dataloader', None), f'{phase}_dataloader', self.findings))
        return built

    def _look_at_files(self, runner, phases: Sequence[str]) -> None:
        files = Files(runner.cfg, self.findings, FileFacts(_cache_of(runner), math.inf))
        files.check(phases)
        if self.findings.of(STOP):  # nothing will be built: look now at what can be
            self._built(runner).check([
                leaf for phase, labelled, dataset in files.readable(phases)
                for leaf in leaves_in(dataset, phase, labelled, self.findings)])

    def before_run(self, runner) -> None:
        """Look at the data sets as they were built, and warn of what is doubtful.

        Raises:
            DataError: There are faults; all of them are in it.
        """
        _decide_together(self.findings, partial(self._look_at_built, runner))
        for found in self.findings.of(WARN):
            _log(f'Doubtful data: {found}')
        for text in dict.fromkeys(self.findings.not_looked_at):
            _log(f'Data not looked at: {text}')
        if self.findings.looked_at:
            _log(f'Data looked at: {"; ".join(self.findings.looked_at)}', logging.INFO)


def _cache_of(runner) -> Optional[Path]:
    return Path(runner.work_dir) / CACHE if runner.work_dir else None


def _log(message: str, level: int = logging.WARNING) -> None:
    if is_main_process():
        print_log(message, logger='current', level=level)


def _decide_together(findings: Findings, look: Callable[[], None]) -> None:
    """Look in the first process; raise an error in all if there are faults."""
    stopped = [False]
    if is_main_process():
        findings.look_at('the data', look)
        stopped = [bool(findings.of(STOP))]
    broadcast_object_list(stopped, src=0)
    if stopped[0] and is_main_process():
        raise DataError(f"{findings.text()}\nIf the data are meant so, leave this check out with "
                        "unguarded=['data_survey']")
    if stopped[0]:
        raise DataError('the first process found faults of the data, and says which')
