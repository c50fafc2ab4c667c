"""The recipes, loaded and built once each: all of them, or those of one task."""
import re
from functools import cache
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmvssd.cli.launch import load_config
from mmvssd.paths import configs_dir

# recipes that differ in schedule or data share them
MODEL_OF = {}  # model by scope and config
SPARED_BY = {}  # names by model and config of the optimizer


class Recipe(NamedTuple):
    """A recipe, and its model without values, which takes no time to fill."""

    folder: str
    name: str
    cfg: Config
    model: torch.nn.Module

    @property
    def arch(self):
        """Family and arch, such as 'vssd-tiny'."""
        return re.search('(vssd|vmamba)-[^_]+', self.name)[0]

    @property
    def family(self):
        return self.arch.partition('-')[0]

    def spared(self):
        """Names of the parameters without weight decay; all others have the recipe's."""
        key = self.model, repr(self.cfg.optim_wrapper)
        if key not in SPARED_BY:
            SPARED_BY[key] = self._spared()
        return SPARED_BY[key]

    def _spared(self):
        optimizer = build_optim_wrapper(self.model, self.cfg.optim_wrapper).optimizer
        decay = {id(p): group['weight_decay'] for group in optimizer.param_groups
                 for p in group['params']}
        decays = {name: decay[id(p)] for name, p in self.model.named_parameters()}
        assert set(decays.values()) == {0, self.cfg.optim_wrapper.optimizer.weight_decay}
        return {name for name, value in decays.items() if value == 0}

    def matching(self, *patterns):
        """Names of the parameters that a pattern finds; each pattern finds some."""
        found = [{name for name, _ in self.model.named_parameters() if re.search(pattern, name)}
                 for pattern in patterns]
        assert all(found)
        return set().union(*found)

    def norms(self):
        """Names of the parameters of norms."""
        return {f'{prefix}.{name}' for prefix, module in self.model.named_modules()
                if isinstance(module, (torch.nn.LayerNorm, _BatchNorm))
                for name, _ in module.named_parameters(recurse=False)}


@cache
def load(folder, name):
    cfg = load_config(f'{folder}/{name}.py')
    scope = cfg.default_scope
    pytest.importorskip(scope)
    key = scope, repr(cfg.model)
    if key not in MODEL_OF:
        with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
            MODEL_OF[key] = MODELS.build(cfg.model)
    return Recipe(folder, name, cfg, MODEL_OF[key])


def names(folder):
    """Every recipe of a folder; of many alike the smallest do while writing."""
    for file in sorted((configs_dir() / folder).glob('*.py')):
        marks = pytest.mark.slow if re.search('small|base', file.stem) else ()
        yield pytest.param((folder, file.stem), id=file.stem, marks=marks)


FOLDERS = ('classification', 'detection', 'segmentation')


@pytest.fixture(scope='session')
def load_recipe():
    """Load and build a recipe: ``load_recipe(folder, name)``."""
    return load


def use(folder, name):
    """Load a recipe whose host's scope the test needs, too."""
    recipe = load(folder, name)
    init_default_scope(recipe.cfg.default_scope)
    return recipe


@pytest.fixture(params=[recipe for folder in FOLDERS for recipe in names(folder)])
def recipe(request):
    """Each recipe."""
    return use(*request.param)


@pytest.fixture(params=names('classification'))
def classifier(request):
    """Each recipe of a classifier."""
    return use(*request.param)


@pytest.fixture(params=names('detection'))
def detector(request):
    """Each recipe of a detector."""
    return use(*request.param)


@pytest.fixture(params=names('segmentation'))
def segmentor(request):
    """Each recipe of a segmentor."""
    return use(*request.param)
