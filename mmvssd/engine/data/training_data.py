"""Training data that depend on the seed and on their place in the training, and on nothing else.

Stock data loaders draw augmentations from a random state that each worker carries along: another
number of workers or processes, or a restart, gives other images. Here a sample is drawn from (seed,
epoch, position in the epoch's order over all processes). So a resumed run sees what the run before
it would have seen. Two processes see what one with twice the batch sees.
"""
import logging
import random
from itertools import islice
from pathlib import Path
from typing import Iterator, List, Optional, Tuple, Union

from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS as HOST_DATA_SAMPLERS
from mmengine.registry import DATASETS as HOST_DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler

from mmvssd.engine.randomness import RandomStream, seed_cpu
from mmvssd.errors import ConfigError, UnreadableImageError
from mmvssd.registry import DATA_SAMPLERS, DATASETS

#: Samplers that draw from a generator of their own; others may draw from the global ones.
SELF_SEEDED = (DefaultSampler, InfiniteSampler)

#: Seed of a run, pass over the data, and position in it over all processes.
Place = Tuple[int, int, int]

#: Images in a row that cannot be read, after which a training stops: the disk is away, say.
MOST_UNREADABLE = 20


class SeededIndex(int):
    """An index of a data set, with the place in the training at which it is read.

    Args:
        index: Which sample.
        place: Seed of the run, pass over the data, and position in it over all processes.
    """

    place: Place

    def __new__(cls, index: int, place: Place):
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __reduce__(self):  # on its way to a worker
        return SeededIndex, (int(self), self.place)


class SeededPair(tuple):
    """The same for an index of several numbers, such as the video and the frame in it."""

    place: Place

    def __new__(cls, index: tuple, place: Place):
        self = super().__new__(cls, index)
        self.place = place
        return self

    def __reduce__(self):
        return SeededPair, (tuple(self), self.place)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Tell the indices of another sampler their place, and start it anew at each iteration.

    A sampler may keep where an iteration stopped, also one that only filled a queue: it is built
    anew. One that draws from the global random numbers gets some of its own.

    Args:
        dataset: What the indices are of.
        sampler: Config of a sampler of the hosts; or one that was built, which is started anew as
            far as its own iterator does so.
        seed: The run's, the same in all processes.
    """

    def __init__(self, dataset, sampler: Union[dict, Sampler], seed: int):
        # samplers look at a data set's class
        self.dataset = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
        self.seed, self.epoch = seed, 0
        self._settings = sampler
        self.sampler = self._build()
        if not isinstance(sampler, dict):
            print_log(f'{type(sampler).__name__} was built beforehand: resumed exactly only if '
                      'each iteration over it begins anew', logger='current',
                      level=logging.WARNING)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Union[SeededIndex, SeededPair]]:
        rank, world_size = get_dist_info()
        epoch = self.epoch
        for count, index in enumerate(self._indices()):
            kind = SeededPair if isinstance(index, (list, tuple)) else SeededIndex
            yield kind(index, (self.seed, epoch, count * world_size + rank))

    def set_epoch(self, epoch: int) -> None:
        """Choose the pass over the data, which sets its order."""
        self.epoch = epoch

    def set_seed(self, seed: int) -> None:
        """Draw order and samples as a run with another seed did, which is resumed."""
        if seed != self.seed:
            self.seed = seed
            self.sampler = self._build()

    def _indices(self) -> Iterator:
        if isinstance(self._settings, dict) and type(self.sampler) in SELF_SEEDED:
            yield from self._build()
            return
        # of all processes, which agree on what they draw or deal out parts of it
        stream = RandomStream(self.seed, self.epoch)
        with stream.drawn_from():
            indices = iter(self._build())
        while True:
            with stream.drawn_from():
                index = next(indices, None)
            if index is None:
                return
            yield index

    def _build(self) -> Sampler:
        sampler = self._settings
        if isinstance(sampler, dict):
            sampler = HOST_DATA_SAMPLERS.build(
                sampler, default_args=dict(dataset=self.dataset, seed=self.seed))
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(self.epoch)
        return sampler


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """Batches of a :class:`SeededSampler`, from any of them on.

    Args:
        sampler: Deals out indices.
        batch_size: Images of a process.
        drop_last: Leave out a last batch that is not full.
        batch_sampler: Config of the batch sampler that groups the indices, such as MMDetection's by
            aspect ratio; None takes them as they come.

    Attributes:
        start: Batches that the next iteration leaves out; it holds once. They are not read.
    """

    def __init__(self, sampler: SeededSampler, batch_size: int, drop_last: bool = False,
                 batch_sampler: Optional[dict] = None):
        super().__init__(sampler, batch_size, drop_last)
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

    def go_to(self, batch: int) -> int:
        """Have the next iteration begin at a batch that is counted from the run's first.

        Returns:
            The pass over the data that it lies in: samplers may end or not.
        """
        epoch = 0
        if isinstance(self.sampler.sampler, DefaultSampler):
            epoch, batch = divmod(batch, len(self))
        self.sampler.set_epoch(epoch)
        if not isinstance(self.sampler.sampler, (DefaultSampler, InfiniteSampler)):
            while batch:  # how many batches a pass has is seen by counting them
                count = sum(1 for _ in islice(self._build(), batch))
                if count == batch:
                    break
                batch -= count
                epoch += 1
                self.sampler.set_epoch(epoch)
        self.start = batch
        return epoch

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
        if isinstance(index, (SeededIndex, SeededPair)):
            seed_cpu(*index.place)
        for _ in range(MOST_UNREADABLE):
            try:
                return self.dataset[tuple(index) if isinstance(index, tuple) else int(index)]
            except UnreadableImageError as error:
                if isinstance(index, tuple):  # another frame may be no frame of this video
                    raise
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
    """Return a data loader's config, with the same data and order, that can be resumed exactly.

    Args:
        dataloader: As a recipe has it, for training.
        seed: The run's, the same in all processes.
        unreadable: File to which the paths of images that cannot be read are added.

    Raises:
        ConfigError: It has no sampler.
    """
    dataloader = dict(dataloader)
    if 'sampler' not in dataloader:
        raise ConfigError('train_dataloader: has no sampler; set '
                          "sampler=dict(type='DefaultSampler', shuffle=True)")
    return dict(
        dataloader,
        dataset=dict(type='mmvssd.SeededDataset', dataset=dataloader['dataset'],
                     unreadable=unreadable),
        sampler=dict(type='mmvssd.SeededSampler', sampler=dataloader['sampler'], seed=seed),
        batch_sampler=dict(
            type='mmvssd.ResumableBatchSampler',
            drop_last=dataloader.pop('drop_last', False),
            batch_sampler=dataloader.pop('batch_sampler', None)))
