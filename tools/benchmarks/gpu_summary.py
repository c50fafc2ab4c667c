#!/usr/bin/env python
"""Sum up what gpu_check.sh has left in a folder: a line for each step, and README.md's claims.

Reads what is there, so that a step that was stopped counts for what it has written.
"""
import argparse
import csv
import json
import re
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parents[2]
#: A measurement as near to a claim as this share of it confirms it.
NEAR = 0.1


class Claim(NamedTuple):
    """A figure of README.md.

    Attributes:
        text: What it is of.
        pattern: Finds it in README.md.
        measured: Finds it in the folder; None if it is not there.
        higher: Whether more is better.
    """

    text: str
    pattern: str
    measured: Callable[[Path], Optional[float]]
    higher: bool


def main(folder: Path, steps: List[str]) -> None:
    """Write summary.md.

    Args:
        folder: Where tables and logs are.
        steps: A step's name, seconds and outcome each, with tabs between.
    """
    lines = ['# What gpu_check.sh found', '', '| step | seconds | outcome | headline |',
             '|---|---|---|---|']
    for step in steps:
        name, seconds, outcome = step.split('\t')
        lines.append(f'| {name} | {seconds} | {outcome} | {headline(name, folder)} |')
    lines += ['', "| README.md's claim | claimed | measured here | |", '|---|---|---|---|']
    readme = (ROOT / 'README.md').read_text()
    lines += [verdict(claim, readme, folder) for claim in CLAIMS]
    text = '\n'.join(lines) + '\n'
    (folder / 'summary.md').write_text(text)
    print(text, end='')


def headline(step: str, folder: Path) -> str:
    """Return what a step's files say in a line; what cannot be read is told, not raised."""
    try:
        return HEADLINES[step](folder)
    except FileNotFoundError as error:
        return f'no {Path(error.filename).name}'
    except (ValueError, KeyError, IndexError) as error:
        return f'its files cannot be read ({type(error).__name__}: {error})'


def verdict(claim: Claim, readme: str, folder: Path) -> str:
    """Return a line of the table of claims."""
    found = re.search(claim.pattern, readme)
    if found is None:
        return f'| {claim.text} | not in README.md | - | - |'
    claimed, measured = float(found[1]), _or_none(claim.measured, folder)
    if measured is None:
        return f'| {claim.text} | {claimed:g} | not reached | - |'
    ratio = measured / claimed if claim.higher else claimed / measured
    word = 'slower' if ratio < 1 - NEAR else 'faster' if ratio > 1 + NEAR else 'confirmed'
    return f'| {claim.text} | {claimed:g} | {measured:.4g} | {word} |'


def _or_none(measured: Callable[[Path], Optional[float]], folder: Path) -> Optional[float]:
    try:
        return measured(folder)
    except (OSError, ValueError, KeyError):
        return None


def _last(file: Path, pattern: str) -> str:
    lines = [line.strip(' =\n') for line in file.read_text(errors='replace').splitlines()]
    return next((line for line in reversed(lines) if re.search(pattern, line)), 'no result')


def _ops(file: Path) -> str:
    """Count rows, and name the shares of a copy's rate, or the kernels' times, of the first."""
    rows = json.loads(file.read_text())['rows']
    if any(row['kernel_seconds'] is not None or row['kernels_failure'] for row in rows):
        done = [row for row in rows if row['kernel_seconds'] is not None]
        texts = [f'{row["op"]} {row["shape"].rpartition(":")[0]} '
                 f'{1e6 * row["kernel_seconds"]:.0f} µs'
                 for row in done if row['backward'] and row['dtype'] == 'bfloat16']
    else:
        done = [row for row in rows if 'seconds' in row['results'].get('own', {})]
        texts = [f'{row["op"]} {row["shape"].rpartition(":")[0]} '
                 f'{1e3 * row["results"]["own"]["seconds"]:.2f} ms'
                 for row in done if row['backward'] and row['dtype'] == 'bfloat16']
    first: Dict[str, str] = {}
    for text in texts:
        first.setdefault(text.split()[0], text)
    return f'{len(done)} of {len(rows)} rows; with backward, bfloat16: ' + (
        ', '.join(first.values()) or 'none')


def _speeds(file: Path) -> List[dict]:
    with open(file, newline='') as text:
        return list(csv.DictReader(text))


def _backbones(file: Path) -> str:
    rows = _speeds(file)
    return f'{len(rows)} rows; ms: ' + ', '.join(
        f'{row["model"]} {row["setting"]} {1000 * float(row["seconds"]):.1f}'
        for row in rows if not row['model'].startswith('resnet'))


def _models(file: Path) -> str:
    rows = json.loads(file.read_text())['rows']
    return 'images/s, inference and training: ' + (', '.join(
        f'{row["label"]} {_images(row, "infer")} and {_images(row, "train")}' for row in rows)
        or 'none')


def _images(row: dict, mode: str) -> str:
    speed = row['speeds'].get(mode)
    return f'{speed["images_per_second"]:.0f}' if speed and speed['kind'] == 'Speed' else '-'


def _inference(model: str) -> Callable[[Path], Optional[float]]:
    def measured(folder: Path) -> Optional[float]:
        rows = json.loads((folder / 'resolution_scaling.json').read_text())['rows']
        return next((float(_images(row, 'infer')) for row in rows
                     if row['label'] == model and _images(row, 'infer') != '-'), None)

    return measured


def _milliseconds(model: str, setting: str) -> Callable[[Path], Optional[float]]:
    def measured(folder: Path) -> Optional[float]:
        return next((1000 * float(row['seconds'])
                     for row in _speeds(folder / 'backbone_speed.csv')
                     if (row['model'], row['setting']) == (model, setting)), None)

    return measured


HEADLINES: Dict[str, Callable[[Path], str]] = {
    'compile': lambda folder: _last(folder / 'compile.log', r'\d+ of \d+ rows ran'),
    'tests': lambda folder: _last(folder / 'tests.log', r'\d+ (passed|failed|of \d+ checks)'),
    'kernels': lambda folder: _ops(folder / 'op_kernels.json'),
    'ops': lambda folder: _ops(folder / 'op_speed.json'),
    'backbones': lambda folder: _backbones(folder / 'backbone_speed.csv'),
    'models': lambda folder: _models(folder / 'resolution_scaling.json'),
    'replays': lambda folder: 'without replays: ' + _backbones(
        folder / 'replays_off' / 'backbone_speed.csv'),
}
CLAIMS = (
    Claim('inference of VSSD-T, float32, images/s', r'VSSD-T \(`iccv2025`\) (\d+) in float32',
          _inference('vssd-tiny-iccv2025'), higher=True),
    Claim('a VSSD-T backbone, bfloat16, one image, as a CUDA graph, ms',
          r'backbone takes ([\d.]+) ms for one image as a CUDA graph',
          _milliseconds('vssd-tiny-iccv2025+bfloat16+cudagraph', 'infer:1x224'), higher=False),
)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=(
        "Sum up what gpu_check.sh has left in a folder, in its summary.md: a line for each step, "
        "and which of README.md's claims it confirmed. gpu_check.sh calls it at its end."))
    parser.add_argument('folder', type=Path, help='where its tables and logs are')
    parser.add_argument('step', nargs='*', help='name, seconds and outcome, with tabs between')
    given = parser.parse_args()
    main(given.folder, given.step)
