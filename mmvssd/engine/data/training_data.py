"""Training data that depend on the seed and on their place in the training, and on nothing else.

Stock data loaders draw augmentations from a random state that each worker carries along: another
number of workers or processes, or a restart, gives other images. Here a sample is drawn from
(seed, epoch, position in the epoch's order over all processes), so that a resumed run sees what the
run before it would have seen, and two processes see what one with twice the batch sees.
"""
import logging
import random
from itertools import islice
from pathlib import Path
from typing import Iterator, List, Optional

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS as HOST_DATA_SAMPLERS
from mmengine.registry import DATASETS as HOST_DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler

from mmvssd.errors import UnreadableImageError
from mmvssd.registry import DATA_SAMPLERS, DATASETS

#: Images in a row that cannot be read, after which a training stops: the disk is away, say.
MOST_UNREADABLE = 20


def seed_cpu(*numbers: int) -> int:
    """Seed Python, NumPy and PyTorch's CPU generator from non-negative integers.

    Returns:
        The seed that they were given. The other devices' generators are left as they are: a
        data set draws nothing there, and PyTorch takes a hundred times as long to tell them.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    return seed


class SeededIndex(int):
    """An index of a data set, with the place in the training at which it is read.

    Args:
        index: Which sample.
        seed: Of which run.
        epoch: In which pass over the data.
        position: Where in this pass, over all processes.
    """

    def __new__(cls, index: int, seed: int, epoch: int, position: int):
        self = super().__new__(cls, index)
        self.place = (seed, epoch, position)
        return self

    def __reduce__(self):  # on its way to a worker
        return SeededIndex, (int(self), *self.place)


class SeededSampler(Sampler):
    """Tells the indices of another sampler their place, and starts it anew at each iteration.

    Args:
        sampler: MMEngine's DefaultSampler, InfiniteSampler, or one that deals indices to processes
            as they do: in turn.
        seed: The run's.
    """

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler = sampler
        self.seed = seed
        self.dataset = sampler.dataset
        self.infinite = isinstance(sampler, InfiniteSampler)
        if not isinstance(sampler, (DefaultSampler, InfiniteSampler)):
            print_log(f'{type(sampler).__name__}: resumed exactly only if each iteration over it '
                      'begins anew, in an order that depends on its seed and epoch alone',
                      logger='current', level=logging.WARNING)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[SeededIndex]:
        rank, world_size = get_dist_info()
        # its own iterator goes on where the last one stopped, also if that only filled a queue
        indices = self.sampler._indices_of_rank() if self.infinite else self.sampler
        epoch = getattr(self.sampler, 'epoch', 0)
        for count, index in enumerate(indices):
            yield SeededIndex(index, self.seed, epoch, count * world_size + rank)

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass over the data, which sets its order."""
        self.sampler.set_epoch(epoch)

    def set_seed(self, seed: int) -> None:
        """Draw order and samples as a run with another seed did, which is resumed."""
        if seed != self.seed:
            self.seed = self.sampler.seed = seed


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """Batches of a :class:`SeededSampler`, from any of them on.

    Args:
        sampler: Deals out indices.
        batch_size: Images of a process.
        seed: The run's.
        drop_last: Leave out a last batch that is not full.
        batch_sampler: Config of the batch sampler that groups the indices, such as MMDetection's by
            aspect ratio; None takes them as they come.

    Attributes:
        start: Batches that the next iteration leaves out; it holds once. They are not read.
    """

    def __init__(self, sampler: Sampler, batch_size: int, seed: int, drop_last: bool = False,
                 batch_sampler: Optional[dict] = None):
        super().__init__(SeededSampler(sampler, seed), batch_size, drop_last)
        self.batch_sampler = batch_sampler
        self.start = 0
        self._counting = self._build()

    def __len__(self) -> int:
        return len(self._counting)

    def __iter__(self) -> Iterator[List[SeededIndex]]:
        # a generator, which begins when it is first asked: PyTorch makes two and uses one
        start, self.start = self.start, 0
        # built anew: a batch sampler may keep indices of an iteration that was given up
        yield from islice(self._build(), start, None)

    def _build(self) -> BatchSampler:
        if self.batch_sampler is None:
            return BatchSampler(self.sampler, self.batch_size, self.drop_last)
        return HOST_DATA_SAMPLERS.build(
            self.batch_sampler,
            default_args=dict(sampler=self.sampler, batch_size=self.batch_size))


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A data set whose random augmentations are drawn from a sample's place in the training.

    An image that cannot be read is written down and another one is drawn in its place, again from
    the place in the training.

    Args:
        dataset: Any data set of the hosts, or its config. Its attributes are this one's too, to
            read and to set: hooks of the hosts exchange its pipeline.
        unreadable: File to which the paths of such images are added.
    """

    OWN = ('dataset', 'unreadable')

    def __init__(self, dataset, unreadable: str):
        self.dataset = HOST_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.unreadable = unreadable

    def __getattr__(self, name: str):
        # while a copy is being made there is no data set yet; and what Python or PyTorch ask of an
        # object, such as __getitems__, is asked of this one
        if name in self.OWN or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value) -> None:
        if name in self.OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        """Read a sample; one by a plain index is drawn from whatever state there is.

        Raises:
            UnreadableImageError: So many images in a row cannot be read that it is not them.
        """
        if isinstance(index, SeededIndex):
            seed_cpu(*index.place)
        for _ in range(MOST_UNREADABLE):
            try:
                return self.dataset[int(index)]
            except UnreadableImageError as error:
                self._write_down(error)
                last = error
                index = random.randrange(len(self))
        raise last

    def _write_down(self, error: UnreadableImageError) -> None:
        """Note an image once in all workers and processes of the run, and of its resumptions.

        :class:`mmvssd.engine.DataFaultsHook` tells of it: not every process has a log.
        """
        line = f'{error}\n'
        with open(self.unreadable, 'a+') as file:
            file.seek(0)
            if line not in file.readlines():
                file.write(line)  # added at the end, whole, by the operating system


def unreadable_images_of(work_dir: str) -> str:
    """File of a work dir that lists the images that a training could not read."""
    return str(Path(work_dir) / 'unreadable_images.txt')


def resumable(dataloader: dict, seed: int, unreadable: str) -> dict:
    """A data loader's config, of the same data in the same order, that can be resumed exactly.

    Args:
        dataloader: As a recipe has it, for training.
        seed: The run's.
        unreadable: File to which the paths of images that cannot be read are added.
    """
    dataloader = dict(dataloader)
    return dict(
        dataloader,
        dataset=dict(type='mmvssd.SeededDataset', dataset=dataloader['dataset'],
                     unreadable=unreadable),
        batch_sampler=dict(
            type='mmvssd.ResumableBatchSampler', seed=seed,
            drop_last=dataloader.pop('drop_last', False),
            batch_sampler=dataloader.pop('batch_sampler', None)))
