"""Batches that a model or a loader cannot take, seen before the first one is made."""
from typing import Any, Dict, Iterator, Tuple

from mmengine.dataset import DefaultSampler
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmvssd.engine.data.findings import Findings
from mmvssd.engine.randomness import RandomState
from mmvssd.phrases import numbered

#: Norms that need the deviation of several values.
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
#: Batches of images of different sizes that are put through a pipeline.
TRIED = 4


def check_settings(dataloader: dict, where: str, findings: Findings) -> None:
    """Look at a data loader's settings, which PyTorch refuses with a message of its own."""
    workers, batch_size = dataloader.get('num_workers', 0), dataloader.get('batch_size', 1)
    if not workers:
        for name in ('persistent_workers', 'prefetch_factor'):
            if dataloader.get(name):
                findings.stop(where, f'{name}={dataloader[name]} needs workers, and num_workers='
                                     f'{workers}', advice=f'Set num_workers to 1 or more, or '
                                                          f'{name}={_off(name)}')
    elif isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        findings.stop(where, f'num_workers is {workers!r}, expected a number from 0 on')
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        findings.stop(where, f'batch_size is {batch_size!r}, expected a number from 1 on')


def _off(name: str):
    return False if name == 'persistent_workers' else None


def check_count(dataloader, where: str, findings: Findings) -> None:
    """Look for a loader that gives no batch."""
    if isinstance(dataloader, DataLoader) and len(dataloader) == 0:
        size = getattr(dataloader.batch_sampler, 'batch_size', None)
        findings.stop(where, numbered(f'{{}} image[s] [gives|give] no batch of {size}',
                                      len(dataloader.dataset)),
                      advice='Check the data and filter_cfg, or set a smaller batch_size; '
                             'drop_last leaves out smaller batches')


def check_training(dataloader, model: nn.Module, where: str, findings: Findings) -> None:
    """Look for a batch of one image that a norm cannot take.

    Args:
        dataloader: As the loop has it.
        model: The model, not wrapped.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    sampler = sampler_of(dataloader)
    batches = dataloader.batch_sampler
    size = getattr(batches, 'batch_size', None)
    if not isinstance(size, int):
        return
    if type(sampler) is DefaultSampler:
        images, drop_last = len(sampler), getattr(batches, 'drop_last', False)
        single = size == 1 or (images % size == 1 and not drop_last)
    else:  # others deal out images without end, or in a way of their own
        single, images = size == 1, None
    if not single:
        return
    for name, norm in norms_of_one_value(model):
        # one that is not two-dimensional may be given several values of an image
        note = findings.warn if isinstance(norm, nn.BatchNorm1d) else findings.stop
        last = f'the last of {images} images in batches of {size} is alone: ' * (size > 1)
        note(where, f'{last}a batch of one image, of which model.{name} sees one value a channel '
                    'and has no deviation of it',
             advice='Set another batch_size' if size == 1 else
             'Set drop_last=True, or another batch_size')
        return


def norms_of_one_value(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Yield batch norms that see one value a channel of each image, with their names.

    Those of vectors, which may be of several an image, come last.
    """
    across = get_world_size() > 1
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential) and any(map(_pools_to_one, module)):
            for inner, norm in module.named_modules():
                if isinstance(norm, NORMS) and norm.training and not (
                        across and isinstance(norm, nn.SyncBatchNorm)):
                    yield f'{name}.{inner}', norm
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d) and module.training:
            yield name, module


def _pools_to_one(module: nn.Module) -> bool:
    return (isinstance(module, nn.AdaptiveAvgPool2d)
            and module.output_size in (1, (1, 1), [1, 1]))


def check_sizes(dataloader, model: nn.Module, sizes: Dict[int, tuple], where: str,
                findings: Findings) -> None:
    """Look for batches of an evaluation whose images leave the pipeline in several sizes.

    Args:
        dataloader: As the loop has it.
        model: The model, not wrapped.
        sizes: Of the images as they are stored, by index.
        where: The setting that names it.
        findings: Where faults and doubts are noted.
    """
    sampler = sampler_of(dataloader)
    if type(sampler) is not DefaultSampler or sampler.shuffle or _pads(dataloader, model):
        return
    mixed = [batch for batch in dataloader.batch_sampler
             if len({sizes[index] for index in batch if index in sizes}) > 1]
    state = RandomState(cpu_only=True)
    try:
        for batch in mixed[:TRIED]:
            images = [dataloader.dataset[index].get('inputs') for index in batch]
            shapes = {tuple(image.shape[1:]) for image in images if isinstance(image, Tensor)}
            if len(shapes) > 1:
                found = ' and '.join(f'{height} x {width}' for height, width in sorted(shapes)[:2])
                findings.stop(where, f'a batch has images of several sizes after the pipeline '
                                     f'(height x width {found}; images {batch[:4]})',
                              advice='Set batch_size=1, or resize or crop to one size')
                return
    finally:
        state.restore()


def sampler_of(dataloader):
    """Return the sampler that orders a loader's images, out of those that wrap it."""
    # a loader with a batch sampler has a sampler that it does not use
    sampler = getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)
    return getattr(sampler, 'sampler', sampler)


def _pads(dataloader, model: nn.Module) -> bool:
    """Tell whether images of several sizes can be put together; True if that is not known."""
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    name = type(preprocessor).__name__
    if getattr(dataloader.collate_fn, '__name__', '') == 'default_collate' or (
            getattr(getattr(dataloader.collate_fn, 'func', None), '__name__', '')
            == 'default_collate'):
        return False
    if name == 'SegDataPreProcessor':
        return bool(preprocessor.test_cfg)
    return True
