"""The recipes and backbones that a new recipe inherits."""
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from mmengine.config import Config
from mmengine.registry import MODELS

from mmvssd.checkpoint import load_pretrained
from mmvssd.datasets.formats import CLASSIFICATION, DETECTION, SEGMENTATION
from mmvssd.errors import CheckpointError, ConfigError
from mmvssd.families import import_backbones
from mmvssd.paths import configs_dir, project_root, seen_from
from mmvssd.phrases import suggestion

#: By task: the folder and the name of an arch's recipe, and what such recipes inherit.
RECIPES = {
    DETECTION: ('detection', r'mask-rcnn_{}_fpn_1x_coco'),
    SEGMENTATION: ('segmentation', r'upernet_{}_4xb4-160k_ade20k-512x512'),
    CLASSIFICATION: ('classification', r'{}_8xb\d+_in1k'),
}
BASES = {
    DETECTION: '_base_/recipes/mask-rcnn_fpn_1x_coco.py',
    SEGMENTATION: '_base_/recipes/upernet_4xb4-160k_ade20k-512x512.py',
    CLASSIFICATION: '_base_/recipes/8xb128_in1k.py',
}


@dataclass(frozen=True)
class Arch:
    """An arch with the recipe that a new one inherits.

    Attributes:
        name: Such as 'vssd-tiny'.
        bases: Configs to inherit: one recipe, or a task's and a backbone if the arch has none.
        backbone: Settings of the backbone.
        checkpoint: The backbone's usual checkpoint, as its file names it.
        rate: Learning rate of the recipe.
        batch: Images of a step that the rate is meant for.
    """

    name: str
    bases: List[Path]
    backbone: dict
    checkpoint: str
    rate: float
    batch: int


def archs() -> List[str]:
    """Return the names of all archs."""
    return sorted(file.stem for file in (configs_dir() / '_base_' / 'backbones').glob('*.py'))


def unknown_arch(name: str) -> str:
    """Return what is said of a name that no arch has."""
    return (f'--arch: got {name!r}{suggestion(name, archs(), longer=True) or "."} Known: '
            f'{", ".join(archs())}')


def find_arch(name: str, task: str) -> Arch:
    """Find an arch and its recipe.

    Raises:
        ConfigError: There is no such arch.
    """
    if name not in archs():
        raise ConfigError(unknown_arch(name))
    file = configs_dir() / '_base_' / 'backbones' / f'{name}.py'
    backbone = Config.fromfile(file)
    folder, pattern = RECIPES[task]
    recipes = [file for file in (configs_dir() / folder).glob('*.py')
               if re.fullmatch(pattern.format(re.escape(name)), file.stem)]
    family_base = configs_dir() / BASES[task].replace('8xb', f'{name.partition("-")[0]}_8xb')
    base = family_base if family_base.is_file() else configs_dir() / BASES[task]
    bases = recipes or [base, file]
    recipe = Config.fromfile(bases[0])
    # a sample recipe's own, where the arch has no published one, is of digits
    checkpoint = f'checkpoints/{name}_in1k.pth'
    return Arch(name, bases, dict(backbone.backbone), checkpoint,
                recipe.optim_wrapper.optimizer.lr, recipe.auto_scale_lr.base_batch_size)


def find_checkpoint(arch: Arch, given: Optional[str]) -> Optional[Path]:
    """Find the checkpoint that the backbone starts from; None if there is none.

    Args:
        arch: The arch.
        given: The file that was asked for; None looks for the arch's usual one.

    Raises:
        CheckpointError: The file that was asked for is not there, or one is of another model.
    """
    if given is not None and not Path(given).is_file():
        raise CheckpointError(f'--checkpoint: {given}: no such file{seen_from(given)}')
    places = [Path(given)] if given is not None else [
        folder / arch.checkpoint for folder in (Path.cwd(), project_root())]
    file = next((Path(os.path.abspath(place)) for place in places if place.is_file()), None)
    if file is not None:
        import_backbones()
        load_pretrained(MODELS.build(arch.backbone), str(file), 'backbone.')
    return file
