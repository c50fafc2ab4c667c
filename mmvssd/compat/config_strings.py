"""The text of a config that a checkpoint holds: never run.

A config in Python is a program. MMEngine runs the text that a checkpoint holds in two places. If a
run is resumed, it asks ``meta.config`` for a number of GPUs. An inferencer without a recipe builds
its model from the text, which may also name any function to call. Whoever made a checkpoint could
so run what they like, for those who take it for weights.

Here a resumed run takes nothing of the text, and an inferencer asks for a recipe.

Fix: retire when MMEngine runs no text of a checkpoint.
"""
from contextlib import contextmanager
from typing import Iterator

from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from mmvssd.compat.patching import when_imported, wrap_once
from mmvssd.errors import CheckpointError


def apply() -> None:
    """Wrap what runs a checkpoint's text."""
    for runner in (Runner, FlexibleRunner):
        wrap_once(runner, 'resume', _resume)
    when_imported('mmengine.infer.infer', _ask_for_recipe)


def _resume(original, *args, **kwargs):
    with _taking_nothing_of_texts():
        return original(*args, **kwargs)


@contextmanager
def _taking_nothing_of_texts() -> Iterator[None]:
    stock = Config.fromstring
    # MMEngine looks for `gpu_ids`, which no config of its own has
    Config.fromstring = staticmethod(lambda cfg_str, file_format: Config())
    try:
        yield
    finally:
        Config.fromstring = staticmethod(stock)


def _ask_for_recipe(module) -> None:
    wrap_once(module.BaseInferencer, '_init_model', _init_model)


def _init_model(original, self, cfg, weights, *args, **kwargs):
    if not cfg:
        raise CheckpointError(
            f'{weights}: an inferencer needs a recipe beside its weights. Without one it would run '
            'the config that the checkpoint holds, and a config is a program. Name the recipe as '
            'the model. If it is lost, and you trust the file, write the text in its '
            "['message_hub']['runtime_info']['cfg'] to a file, read it, and name that")
    return original(self, cfg, weights, *args, **kwargs)
