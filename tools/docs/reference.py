"""Write the pages of the reference from what is there: command lines, registries, signatures."""
import contextlib
import dataclasses
import inspect
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

from environment import environment_page
from mmengine.registry import Registry

import mmvssd_kernels
from mmvssd import registry
from mmvssd.analysis.published_comparison import published_tables
from mmvssd.engine import guards
from mmvssd.families import FAMILIES
from mmvssd.models.backbones.arch import Arch
from mmvssd.models.backbones.base import BaseBackbone
from mmvssd_kernels import dispatch

ROOT = Path(__file__).resolve().parents[2]
#: What other tools call; no command of a user's.
PARTS = ('dist_run.sh', 'slurm_run.sh', 'torchrun.py')
FOLDERS = {'.': 'Set up, train, test, predict', 'dataset_tools': 'Data',
           'model_converters': 'Checkpoints', 'deployment': 'Deployment',
           'analysis_tools': 'Analysis', 'benchmarks': 'Benchmarks'}
MODULES = ('mmvssd.doctor', 'mmvssd.predict', 'mmvssd_kernels.benchmark')


def tools():
    """Return every command of tools/ by its folder, as paths below tools/."""
    found = {}
    for file in sorted((ROOT / 'tools').rglob('*')):
        folder = file.parent.relative_to(ROOT / 'tools').as_posix()
        if (file.suffix in ('.py', '.sh') and folder not in ('setup', 'docs')
                and file.name not in PARTS):
            found.setdefault(folder, []).append(file.relative_to(ROOT / 'tools').as_posix())
    return found


def help_of(command):
    """Return what ``--help`` of a tool or a module prints, wrapped at 80 characters."""
    if command.endswith('.sh'):
        done = subprocess.run(['bash', str(ROOT / 'tools' / command), '--help'], check=True,
                              capture_output=True, text=True)
        return done.stdout or done.stderr
    output = io.StringIO()
    module = command in MODULES
    name = f'python -m {command}' if module else f'{Path(command).name}'
    with (mock.patch.object(sys, 'argv', [name, '--help']),
          mock.patch.dict(os.environ, COLUMNS='82', NO_COLOR='1'),
          contextlib.redirect_stdout(output)):
        try:
            if module:
                runpy.run_module(command, run_name='__main__')
            else:
                runpy.run_path(str(ROOT / 'tools' / command), run_name='__main__')
        except SystemExit as ended:
            if ended.code:
                raise RuntimeError(f'{command} --help ended with {ended.code}') from ended
    return output.getvalue().replace('__main__.py', name)


def tools_page():
    """Write the page of commands."""
    parts = ['# Commands', 'What `--help` prints, of every command. Python tools start with '
             '`python`, shell scripts with `bash`.']
    found = tools()
    for folder, title in FOLDERS.items():
        parts.append(f'## {title}')
        for command in found.pop(folder):
            parts += [f'### tools/{command} {{ #{Path(command).name} }}',
                      f'```text\n{help_of(command).rstrip()}\n```']
    if found:
        raise RuntimeError(f'tools/{next(iter(found))}: give the folder a title in FOLDERS')
    parts += ['## From a plain installation',
              'These need no checkout.']
    for module in MODULES:
        parts += [f'### python -m {module}', f'```text\n{help_of(module).rstrip()}\n```']
    return '\n\n'.join(parts)


def described(thing, level=3, **options):
    """Return the lines that have mkdocstrings describe a class or a function."""
    lines = [f'::: {thing.__module__}.{thing.__qualname__}', '    options:',
             f'      heading_level: {level}']
    return '\n'.join([*lines, *(f'      {name}: {value}' for name, value in options.items())])


def archs_page():
    """Write the page of backbones: arguments, archs and the keys of an arch's dict."""
    parts = ['# Archs and options',
             "In a config a backbone is `dict(type='mmvssd.VSSD', arch='tiny', ...)`, in Python "
             "`mmvssd.models.VSSD('tiny', ...)`. Both take the same arguments. "
             '[Backbones](../backbone.md) shows them at work.',
             '## Arguments of every backbone', described(BaseBackbone),
             '## Keys of every arch', described(Arch)]
    for family in FAMILIES.values():
        backbone = family.backbone
        parts += [f'## {backbone.__name__}',
                  f'`{family.type}`, by default `{backbone.default_arch}`. A dict as `arch` has '
                  'the keys below the table.',
                  archs_table(backbone.archs), described(backbone.arch_type)]
    return '\n\n'.join(parts)


def archs_table(archs):
    """Return a table of settings, a row each, of archs, a column each."""
    fields = [field.name for field in dataclasses.fields(next(iter(archs.values())))]
    lines = [f'| | {" | ".join(f"`{name}`" for name in archs)} |', '|---' * (len(archs) + 1) + '|']
    for field in fields:
        values = (written(getattr(arch, field)) for arch in archs.values())
        lines.append(f'| `{field}` | {" | ".join(values)} |')
    return '\n'.join(lines)


def written(value):
    """Return a setting as a cell of a table."""
    if isinstance(value, (list, tuple)):
        if len(set(value)) == 1:
            return written(value[0])
        return ' '.join('-' if one is None else str(one) for one in value)
    return str(value)


def ops_page():
    """Write the page of ops, and of what chooses their implementation."""
    parts = ['# Ops', 'Functions of `mmvssd_kernels`, which need only PyTorch. '
             '[The guide](../kernels/README.md) shows their use.']
    for name in mmvssd_kernels.__all__:
        op = getattr(mmvssd_kernels, name)
        choices = ', '.join(f'`{choice}`' for choice in dispatch.names(name))
        parts += [described(op, level=2), f'Implementations: {choices}.']
    parts.append('## Implementations')
    parts += [described(getattr(dispatch, name)) for name in
              ('register', 'unregister', 'names', 'used', 'forget_used', 'CannotRun')]
    return '\n\n'.join(parts)


def config_keys_page():
    """Write the page of what a config may name: settings, guards, and every registered part."""
    parts = ['# Config keys',
             'What this package adds to a config. Parts are named with their scope, such as '
             "`type='mmvssd.VSSD'`, from a config of any host.",
             '## Guards', 'Every training has them; `unguarded` leaves one out.', guards_table(),
             described(guards.guard)]
    models = {family.backbone for family in FAMILIES.values()}
    for name, one in vars(registry).items():
        if not isinstance(one, Registry) or one.scope != 'mmvssd' or name == 'KERNELS':
            continue
        one.import_from_location()
        parts.append(f'## {name.replace("_", " ").capitalize()}')
        for kind, built in sorted(one.module_dict.items()):
            if built not in models:
                parts += [described(built, heading=f'mmvssd.{kind}', toc_label=kind),
                          inherited_settings(built)]
        if name == 'MODELS':
            parts.insert(-1, 'Backbones are in [archs and options](archs.md).')
    return '\n\n'.join(parts)


def inherited_settings(kind):
    """Return a sentence on the settings that a class hands on to a host's; '' if there are none."""
    for owner in getattr(kind, '__mro__', (object, ))[:-1]:
        if '__init__' not in vars(owner):
            continue
        parameters = inspect.signature(owner).parameters.values()
        package = owner.__module__.partition('.')[0]
        if package != 'mmvssd':
            names = ', '.join(f'`{one.name}`' for one in parameters if one.kind != one.VAR_KEYWORD)
            return f"Settings of `{package}`'s `{owner.__name__}`: {names}."
        if not any(one.kind == one.VAR_KEYWORD for one in parameters):
            break
    return ''


def guards_table():
    """Return a table of the guards' names, what they are, and what a run without one may do."""
    rows = ['| name | hook | without it | in tests |', '|---|---|---|---|']
    rows.append(f'| `{guards.TRAIN_LOOP}` | | {guards.INEXACT} | |')
    rows += [f'| `{name}` | `mmvssd.{guard.hook.__name__}` | {guard.without} | '
             f'{"yes" if guard.in_tests else ""} |' for name, guard in guards.GUARDS.items()]
    return '\n'.join(rows)


def published_page():
    """Write the page of numbers that others published."""
    return '\n\n'.join([
        '# Published numbers',
        'None of these is measured here. Speeds of VMamba are of an NVIDIA A100 '
        "with an AMD EPYC 7542. Memory of VSSD's appendix is of an RTX 4090, in inference and "
        'float32. [What a larger image costs](../scaling.md) compares.', published_tables()])


#: The generated pages: place in the site -> what writes them.
PAGES = {'reference/tools.md': tools_page, 'reference/archs.md': archs_page,
         'reference/ops.md': ops_page, 'reference/config_keys.md': config_keys_page,
         'reference/environment.md': environment_page,
         'reference/published.md': published_page}
