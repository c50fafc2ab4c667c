"""Trains a recipe in a process that is killed (SIGKILL) again and again, and resumed each time.

    python killed_training.py '{"recipe": ..., "hooks": [...], "runs": [{"work_dir": ...,
                                "options": {...}, "kills": [...]}, ...]}'

``kills`` are moments: "iter:3", "save", "val:2" (in the third iteration since the start, while a
checkpoint is written, in the second batch of an evaluation), or seconds after the start. After the
last the training may end. Prints one line of JSON for each run: in which phase each kill found it,
and how many checkpoints were left half-written.

The child is forked from a process that has imported everything: it starts in a moment.
"""
import glob
import json
import mmap
import os
import signal
import sys
import time

import mmpretrain  # noqa: F401
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

import mmvssd.engine  # noqa: F401
from mmvssd.engine.launch import build_trainer, load_config

PHASES = ('start', 'iter', 'save', 'val', 'between')
SHARED = mmap.mmap(-1, 2)  # the phase, and how often it was entered


def enter(phase: str) -> None:
    SHARED[0] = PHASES.index(phase)
    SHARED[1] = (SHARED[1] + 1) % 256


@HOOKS.register_module()
class PhaseHook(Hook):
    """Tells the parent where the training is."""

    priority = 'HIGHEST'

    def before_train_iter(self, *args, **kwargs):
        enter('iter')

    def before_val_iter(self, *args, **kwargs):
        enter('val')

    def after_val(self, *args, **kwargs):
        enter('between')


def slow_put(self, content, filepath):
    """Write in two halves, so that there is a time to be killed in."""
    enter('save')
    with open(filepath, 'wb') as file:
        file.write(content[:len(content) // 2])
        file.flush()
        time.sleep(0.02)
        file.write(content[len(content) // 2:])


def train(cfg: Config) -> None:
    # what MMEngine's own function is, below whatever the package lays around it
    inner = LocalBackend.put.__closure__
    assert inner, 'nothing is laid around LocalBackend.put'
    for cell in inner:
        if getattr(cell.cell_contents, '__name__', '') == 'put':
            cell.cell_contents = slow_put
    build_trainer(cfg, resume='auto').train()


def fork(cfg: Config, log: str) -> int:
    enter('start')
    child = os.fork()
    if child:
        return child
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 1
    try:
        train(cfg)
        status = 0
    finally:
        os._exit(status)


def wait_for(moment, child: int) -> bool:
    """Wait for the moment to kill; False if the training ended before it."""
    start, entered = time.monotonic(), 0
    count = SHARED[1]
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if isinstance(moment, str):
            name, _, times = moment.partition(':')
            if SHARED[1] != count:
                count = SHARED[1]
                entered += PHASES[SHARED[0]] == name
            if entered >= int(times or 1):
                time.sleep(0.01)
                return True
        elif time.monotonic() - start >= moment:
            return True
        time.sleep(0.0005)
    return False


def run(cfg: Config, kills: list) -> dict:
    """Train, killed at each of the moments, to the end."""
    os.makedirs(cfg.work_dir, exist_ok=True)
    log = os.path.join(cfg.work_dir, 'output.txt')
    found, halves = [], 0
    for moment in kills:
        child = fork(cfg.copy(), log)
        if not wait_for(moment, child):
            break
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.append(PHASES[SHARED[0]])
        halves += len(glob.glob(os.path.join(cfg.work_dir, '*.partial')))
    else:
        child = fork(cfg.copy(), log)
        status = os.waitpid(child, 0)[1]
        if status:
            with open(log) as file:
                sys.exit(file.read()[-5000:])
    return dict(killed=found, halves=halves)


def main() -> None:
    given = json.loads(sys.argv[1])
    for settings in given['runs']:
        cfg = load_config(given['recipe'], work_dir=settings['work_dir'],
                          options=settings['options'])
        cfg.custom_hooks = [dict(type='PhaseHook'), *given['hooks']]
        print(json.dumps(run(cfg, settings['kills'])), flush=True)


if __name__ == '__main__':
    main()
