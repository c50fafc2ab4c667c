"""What works on this machine, found by trying it: ``python -m mmvssd.doctor``.

The exit status is 0 if PyTorch, MMEngine's Runner, mmcv's ops, the three hosts and every op of
``mmvssd_kernels`` work, so that anything here can train; otherwise 1, after one line for each
problem that says what to do. The last line is the verdict. With ``--all`` it also names the ops of
mmcv that nobody has here.
"""
import argparse
import functools
import importlib
import os
import platform
from typing import Callable, List, NamedTuple, Optional, Sequence

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmvssd import compat, import_errors
from mmvssd.compat import mmcv_ops, versions
from mmvssd.families import FAMILIES
from mmvssd.phrases import counted
from mmvssd.version import __version__

#: Sets up everything, from a checkout, in the versions that are tested together.
INSTALL = 'bash tools/setup.sh'

#: Import package of a host -> its distribution.
HOSTS = {'mmdet': 'mmdet', 'mmseg': 'mmsegmentation', 'mmpretrain': 'mmpretrain'}

#: Import packages that have rows of their own; an OpenCV without libGL has its own way out.
KNOWN = {*HOSTS, 'mmvssd', 'mmvssd_kernels', 'mmcv', 'mmengine', 'torch', 'torchvision', 'cv2'}


class Finding(NamedTuple):
    """One row: what was tried, whether it works (None: it need not), what was seen, what to do."""

    subject: str
    works: Optional[bool]
    seen: str
    remedy: str = ''


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Print what works; returns the exit status.

    Args:
        arguments: Of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog='python -m mmvssd.doctor', description='Show what works on this machine.')
    parser.add_argument('--all', action='store_true',
                        help="name mmcv's ops that are not available on this machine as well")
    everything = parser.parse_args(arguments).all
    console = Console()
    sections = {
        f'mmvssd {__version__}: installed versions': check_versions(),
        'This machine': check_machine(),
        'Training': check_hosts(),
        "mmcv's ops": check_mmcv_ops(everything),
        'Ops': check_ops(),
    }
    for title, findings in sections.items():
        console.print(_table(title, findings))
    problems = [finding for findings in sections.values() for finding in findings
                if finding.works is False]
    for problem in problems:
        console.print(f'PROBLEM {problem.subject}: {problem.remedy}',
                      style='red', markup=False, highlight=False, soft_wrap=True)
    console.print(_verdict(problems), style='red' if problems else 'green',
                  markup=False, highlight=False, soft_wrap=True)
    return 1 if problems else 0


def _verdict(problems: Sequence[Finding]) -> str:
    if not problems:
        return 'All that is needed works.'
    return (f'To mend: {", ".join(problem.subject for problem in problems)}, as the lines above '
            f'say. Or set everything up anew, from a checkout of mmvssd: {INSTALL}')


def _table(title, findings):
    table = Table('', 'what', 'seen', title=title, title_justify='left', title_style='bold')
    marks = {True: '[green]ok[/]', False: '[red]NO[/]', None: '-'}
    for finding in findings:
        # Text from outside may hold brackets, which rich would take for its markup.
        table.add_row(marks[finding.works], finding.subject, escape(finding.seen))
    return table


def attempt(subject: str, check: Callable[[], str], remedy: str) -> Finding:
    """Run a check. Whatever it raises is the finding: that is what a doctor is for."""
    try:
        return Finding(subject, True, check())
    except Exception as error:
        return _failed(subject, error, remedy)


def _failed(subject: str, error: Exception, remedy: str) -> Finding:
    return Finding(subject, False, import_errors.first_line(error), remedy)


def attempt_import(subject: str, check: Callable[[], str], remedy: str) -> Finding:
    """Run a check that imports. The remedy is for what is no fault of another package."""
    try:
        return Finding(subject, True, check())
    except Exception as error:
        blamed = import_errors.remedy(error, KNOWN)
        remedy = f'{blamed}, or {INSTALL}' if blamed else remedy
        if compat.left_out():
            remedy = (f'unset {compat.ENVIRONMENT_VARIABLE}, which leaves out patches that may be '
                      f'needed; if that does not do: {remedy}')
        return _failed(subject, error, remedy)


def check_versions() -> List[Finding]:
    """Compare versions with what fits; a host that is absent is judged where it is tried."""
    findings, problems = [], versions.problems()
    for name, fits in versions.RANGES.items():
        version = versions.installed(name)
        works = None if version is None else name not in problems
        findings.append(Finding(name, works, f'{version or "not installed"} (fits: {fits})',
                                problems.get(name, '')))
    for name in versions.COMPANIONS:
        version = versions.installed(name)
        if version is not None:
            works = False if name in problems else None
            findings.append(Finding(name, works, version, problems.get(name, '')))
    return findings


def check_machine() -> List[Finding]:
    """Interpreter, processors, GPU, Triton: what there is, not what there should be."""
    system = f'{platform.python_version()} on {platform.system()} {platform.machine()}'
    return [Finding('Python', None, system),
            Finding('CPU', None, f'{counted(os.cpu_count() or 1, "core")}, '
                                 f'{counted(torch.get_num_threads(), "thread")}'),
            _gpu(), _triton()]


def _gpu():
    if not torch.cuda.is_available():
        built = f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU only'
        return Finding('GPU', None, f'none found; PyTorch is built for {built}')
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return attempt('GPU', lambda: _add_on_gpu(', '.join(names)),
                   'PyTorch finds a GPU that it cannot use: install the PyTorch build that fits '
                   'its driver (see nvidia-smi), or hide it with CUDA_VISIBLE_DEVICES=-1')


def _add_on_gpu(names):
    if (torch.ones(2, device='cuda') + 1).tolist() != [2, 2]:
        raise RuntimeError('a sum on it is wrong')
    return names


def _triton():
    try:
        version = importlib.import_module('triton').__version__
    except Exception as error:  # it is optional, so no problem; yet say why it is not there
        return Finding('Triton', None, f'not usable ({error}): ops run their PyTorch reference')
    interpreted = os.environ.get('TRITON_INTERPRET') == '1'
    return Finding('Triton', None, version + (' (interpreted)' if interpreted else ''))


def check_hosts() -> List[Finding]:
    """Import the Runner, mmcv's ops and each host, and look the backbones up from there."""
    findings = [
        attempt_import('mmengine Runner', _import_runner,
                       f'MMEngine does not import (see above); {INSTALL}, or for an OpenCV that '
                       'lacks libGL: pip install opencv-python-headless in its place'),
        attempt_import('mmcv ops', _run_mmcv_ops, _mmcv_remedy()),
    ]
    for host, distribution in HOSTS.items():
        findings.append(attempt_import(f'{host} + mmvssd', functools.partial(_look_up, host),
                                       _host_remedy(distribution)))
    return findings + [Finding(f'patch {name}', None, notice)
                       for name, notice in compat.notices().items()]


def _import_runner():
    importlib.import_module('mmengine.runner')
    return 'imports'


def _run_mmcv_ops():
    """MMDetection suppresses boxes with this op, on the device that the model runs on."""
    nms = importlib.import_module('mmcv.ops').nms
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    for device in devices:
        boxes = torch.tensor([[0., 0., 4., 4.], [0., 0., 4., 4.1]], device=device)
        _, kept = nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5)
        if kept.tolist() != [0]:
            raise RuntimeError(f'nms on {device} keeps the boxes {kept.tolist()}, not [0]')
    return f'nms runs on {", ".join(devices)}'


def _mmcv_remedy():
    if versions.installed('mmcv') is None and versions.installed('mmcv-lite') is None:
        return f'mmcv-lite or mmcv is needed: {INSTALL}'
    return ("mmcv's compiled ops do not work with this PyTorch or this GPU: build them again "
            f'beside it: {INSTALL}')


def _look_up(host):
    importlib.import_module(f'{host}.models')
    models = importlib.import_module(f'{host}.registry').MODELS
    for family in FAMILIES.values():
        if models.get(family.type) is not family.backbone:
            raise LookupError(f'its registry does not find {family.type!r}')
    return f'imports, finds {", ".join(family.type for family in FAMILIES.values())}'


def _host_remedy(distribution):
    version = versions.installed(distribution)
    misfit = versions.misfit(distribution, version)
    if misfit:
        return misfit
    if version is None:
        return f'not installed: {versions.pip_line(distribution)} --no-deps, or {INSTALL}'
    return f'{distribution} {version} does not work here (see the table): {INSTALL}'


def check_mmcv_ops(everything: bool = False) -> List[Finding]:
    """Say who serves each of mmcv's ops: mmcv (compiled), torchvision, or this package.

    An op that nobody serves is no problem before a model needs it; its error then says what to do.

    Args:
        everything: Name these ops too, in place of their number.
    """
    findings = []
    for device in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
        served = mmcv_ops.providers(device)
        for provider in (mmcv_ops.COMPILED, mmcv_ops.TORCHVISION, mmcv_ops.OWN):
            ops = [op for op, its in served.items() if its == provider]
            if ops:
                findings.append(Finding(f'{provider} ({device})', None, ', '.join(ops)))
        absent = [op for op, its in served.items() if its is None]
        if absent:
            findings.append(Finding(
                f'not available on this machine ({device})', None,
                'calling one raises: '
                + (', '.join(absent) if everything else f'{len(absent)} in all, see --all')))
    return findings


def check_ops() -> List[Finding]:
    """Run each op, forward and backward, in each implementation and on each kind of device."""
    try:
        dispatch = importlib.import_module('mmvssd_kernels').dispatch
        ops = dispatch.ops()
    except Exception as error:
        return [Finding('mmvssd_kernels', False, f'{type(error).__name__}: {error}',
                        f'its package does not import: {INSTALL}')]
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    return [_check_op(dispatch, op, name, device)
            for op in ops for name in dispatch.names(op) for device in devices]


def _check_op(dispatch, op, name, device):
    subject = f'{op} ({name}, {device})'
    try:
        return Finding(subject, True, _run_op(op, name, device))
    except dispatch.CannotRun as error:
        return Finding(subject, None, f'cannot run here: {error.reason}')
    except Exception as error:
        return _failed(subject, error,
                       f'set MMVSSD_KERNEL=reference to train without {name}, and report this'
                       if name != 'reference' else f'the PyTorch reference fails: {INSTALL}')


def _run_op(op, name, device):
    case = importlib.import_module('mmvssd_kernels.parity').Case.example(op)
    inputs = case.cast(torch.float32, device)
    y = case.run(inputs, name)
    gradients = torch.autograd.grad(y.square().sum(), list(inputs.values()))
    torch.testing.assert_close(y, case.run(inputs, 'reference'), rtol=1e-3, atol=1e-3)
    if not all(gradient.isfinite().all() for gradient in gradients):
        raise RuntimeError('a gradient is not finite')
    return 'forward and backward run' + ('' if name == 'reference' else ', as the reference')
