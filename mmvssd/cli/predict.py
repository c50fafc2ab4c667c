"""Predictions on images, of the hosts' models or exported files: pictures, one form of JSON."""
import errno
import fcntl
import os
import signal
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from mmengine.config import Config
from rich.progress import track

from mmvssd.checkpoint import dataset_meta, read_checkpoint, require_fit
from mmvssd.cli.ahead import Outcome, default_workers, outcomes
from mmvssd.cli.file_inferencers import file_inferencer
from mmvssd.cli.image_files import Limits, obstacle, size_obstacle
from mmvssd.cli.inputs import Input, Inputs, Key, describe, find_inputs
from mmvssd.cli.json_list import JsonList
from mmvssd.cli.launch import check_device, check_output_file, check_writable, require
from mmvssd.cli.resuming import (
    NAME,
    check_settings,
    model_settings,
    recipe_settings,
    write_settings,
)
from mmvssd.cli.tiled import Tiled
from mmvssd.cli.tiles import check_grid
from mmvssd.cli.unfinished import Unfinished
from mmvssd.engine.data.batch_check import BatchCheck
from mmvssd.engine.record.pictures import write_picture
from mmvssd.errors import ConfigError, DataError, UnreadableImageError, printable
from mmvssd.files import NO_ROOM
from mmvssd.paths import real_path
from mmvssd.phrases import counted, emptiness, left_out, numbered, of_all

#: Pixels of the largest image that is predicted on, if nothing else is asked for.
MAX_PIXELS = 2**26

#: Signals that end a run after the image at hand; a second one ends it at once.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: A score that many detections of a model that learnt a little reach.
LOW_SCORE = 0.05

#: Errors after which no other result can be written either.
FULL = (*NO_ROOM, errno.EIO)


class Options(NamedTuple):
    """How images are taken and predictions are made.

    Attributes:
        score_thr: Detections below this score are left out, 0 to 1.
        max_pixels: Pixels of the largest image that is predicted on. The recipe may hand the model
            at most a quarter of it.
        batch_size: Images that run together, at most, if the model is given them in one shape.
        workers: Threads that read ahead and, on a CPU, predict; 0 does one thing after the other;
            None takes one a core, at most 4.
        recursive: Take the images of sub-folders as well.
        resume: Continue the predictions that are in the folder.
        tile: Side of the tiles that images are cut into; None takes images whole. ``max_pixels``
            are then those of a tile.
        overlap: Pixels that neighbouring tiles share at least; None takes an eighth of a tile.
        tta: Take the mean over the recipe's augmentations of an image; of segmentors.
    """

    score_thr: float = 0.3
    max_pixels: int = MAX_PIXELS
    batch_size: int = 1
    workers: Optional[int] = None
    recursive: bool = False
    resume: bool = False
    tile: Optional[int] = None
    overlap: Optional[int] = None
    tta: bool = False

    def check(self) -> None:
        """Raise ConfigError for an option that does not fit."""
        if not 0 <= self.score_thr <= 1:  # nor is it NaN
            raise ConfigError(f'--score-thr: got {self.score_thr}, expected a score from 0 to 1')
        for name, least in (('max_pixels', 1), ('batch_size', 1), ('workers', 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f'--{name.replace("_", "-")}: got {value}, expected a number of '
                                  f'at least {least}')

        if self.tile is not None and self.shared is not None:
            check_grid(self.tile, self.shared)
        elif self.overlap is not None:
            raise ConfigError('--overlap: goes with --tile, which is not given')

    @property
    def shared(self) -> Optional[int]:
        """Pixels that neighbouring tiles share; None without tiles."""
        if self.tile is None:
            return None
        return self.tile // 8 if self.overlap is None else self.overlap

    @property
    def settings(self) -> Dict[str, object]:
        """Those that the predictions depend on."""
        settings: Dict[str, object] = dict(
            score_thr=self.score_thr, tile=self.tile, overlap=self.shared)
        if self.tta:  # former versions knew no such setting
            settings['tta'] = True
        return settings


DEFAULTS = Options()


def predict(cfg: Config, checkpoint: str, images: Union[str, Sequence[str]], out_dir: str, *,
            device: Optional[str] = None, options: Options = DEFAULTS) -> Path:
    """Draw predictions and write them down, image by image.

    Args:
        cfg: Recipe of the model.
        checkpoint: Its weights.
        images: What :func:`~mmvssd.cli.inputs.find_inputs` takes: an image, a folder, a list or a
            video; or several, but for videos.
        out_dir: Folder for ``pictures/`` and ``predictions.json``.
        device: Device to run on; None takes a GPU if there is one.
        options: How images are taken and predictions are made.

    Returns:
        The JSON's path. It is whole after every image, and holds one entry for each that was
        predicted on: ``image``, the number of the ``frame`` if that is a video, and one of

        - ``instances``: ``category``, ``score``, ``bbox`` as (x1, y1, x2, y2) in pixels, and a
          ``segmentation`` if the model has masks;
        - ``segments``: ``category``, ``share`` of the image's pixels, and the ``segmentation``,
          for each class that was found, the largest first;
        - ``classes``: ``category`` and ``score`` of the best five.

        A ``segmentation`` is a mask in the image's size as COCO's run lengths. A label map is
        written so too, class by class. Nothing is lost, and pycocotools reads it as it reads a
        detector's. It needs no second file with the meaning of its numbers.

    Raises:
        ConfigError: There is no inferencer for the recipe's host, no such device, or an option
            does not fit. Another prediction writes into the folder, or its JSON is no prediction's.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        DataError: There is no image, or some could not be predicted on or drawn. These are named
            with the reason after all others are written. After a full disk, the rest is named.
        SystemExit: SIGINT, SIGTERM or SIGHUP came; the status is 128 and its number.
    """
    # these need mmcv, which an exported file does not
    from mmvssd.cli.augmented import augmented
    from mmvssd.cli.band_inferencers import inferencer_class
    from mmvssd.cli.inferencers import HOSTS
    scope = cfg.get('default_scope')
    if scope not in HOSTS:
        raise ConfigError(f'default_scope: got {scope}, expected one of {", ".join(HOSTS)}')
    _check_options(out_dir, options)
    if device is not None:
        check_device(device)
    require(cfg, 'test_dataloader')
    if options.tta:
        cfg = augmented(cfg)
    weights = read_checkpoint(checkpoint)
    settings = {**options.settings, **recipe_settings(cfg, checkpoint)}
    inputs = _find(images, Path(out_dir), options, settings)
    with _alone_in(Path(out_dir)):
        inferencer = inferencer_class(cfg, options.tta)(
            cfg, checkpoint, dataset_meta(checkpoint, weights), options.score_thr, device)
        require_fit(checkpoint, weights, inferencer.model)
        inferencer.check_classes()
        BatchCheck.watch(inferencer.model)
        return _Run(inferencer, inputs, Path(out_dir), options, settings).finish()


def predict_with_file(model: str, images: Union[str, Sequence[str]], out_dir: str, *,
                      options: Options = DEFAULTS) -> Path:
    """Draw predictions of an exported file and write them down, as :func:`predict` does.

    Neither mmcv nor the hosts are needed; the file is run on the CPU.

    Args:
        model: An ONNX file of ``tools/deployment/export.py``, or one of OpenVINO.
        images, out_dir, options: As :func:`predict` takes them.

    Raises:
        ConfigError: The file is none of those, its runtime is not installed, or an option does
            not fit.
        DataError: As :func:`predict` raises it.
        SystemExit: The same.
    """
    _check_options(out_dir, options)
    if options.tta:
        raise ConfigError('--tta: does not go with --model: an exported file holds no '
                          'augmentations; predict with the recipe and a checkpoint')
    inferencer = file_inferencer(model, options.score_thr)
    settings = {**model_settings(model), **options.settings}
    inputs = _find(images, Path(out_dir), options, settings)
    with _alone_in(Path(out_dir)):
        return _Run(inferencer, inputs, Path(out_dir), options, settings).finish()


def _check_options(out_dir: str, options: Options) -> None:
    if emptiness(out_dir):
        raise ConfigError(f'--out-dir: {emptiness(out_dir)}')
    options.check()


def _find(images: Union[str, Sequence[str]], out: Path, options: Options,
          settings: Dict[str, object]) -> Inputs:
    """Find the images, and check the folder for the results."""
    pictures = out / 'pictures'
    inputs = find_inputs(images, recursive=options.recursive, without=pictures)
    for folder in (out, pictures):
        check_writable(str(folder), '--out-dir')
    for name in ('predictions.json', NAME):
        check_output_file(str(out / name), '--out-dir')
    for folder in inputs.folders:
        resolved = real_path(folder)
        if real_path(pictures) in (resolved, *resolved.parents):
            raise ConfigError(f'--out-dir: the pictures would replace the images in {folder}; '
                              'name another folder')
    if options.resume and (out / 'predictions.json').exists():
        check_settings(out, settings)
    elif JsonList(out / 'predictions.json').is_foreign():
        raise ConfigError(f'--out-dir: {out / "predictions.json"} is no list of predictions of '
                          'this command, which would replace it; name another folder, or move it')
    return inputs


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other predictions out of a folder: two would write into each other's entries.

    The lock is the system's, on the folder itself. So it leaves no file, and goes with its process.

    Raises:
        ConfigError: Another prediction writes into the folder.
    """
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigError(f'--out-dir: another prediction is writing into {out}; wait for its end, '
                          'or name another folder') from error
    except OSError:  # a shared file system that locks no folders
        pass
    try:
        yield
    finally:
        os.close(descriptor)


class _Run:
    """Images on their way: what was written, what failed, how far it came.

    Args:
        inferencer: An ``Inferencer`` of a host, or a ``FileInferencer``.
        inputs: The images.
        out: Folder for the results.
        options: How images are taken and predictions are made.
        settings: What the predictions depend on.
    """

    def __init__(self, inferencer: Any, inputs: Inputs, out: Path, options: Options,
                 settings: Dict[str, object]):
        self.inputs, self.options, self.settings = inputs, options, settings
        self.limits = Limits.of(options.max_pixels)
        self.received: List[int] = []
        self.own_threshold: Optional[Tuple[str, float]] = inferencer.own_threshold
        self.inferencer: Any = inferencer if options.tile is None else Tiled(
            inferencer, options.tile, options.shared or 0, self.limits,
            Unfinished(out, settings, options.resume), lambda: bool(self.received))
        self.pictures = out / 'pictures'
        self.results = JsonList(out / 'predictions.json')
        self.done: Set[Tuple[Any, Optional[int]]] = set()
        self.tried: Set[Key] = set()
        self.failures: Dict[Key, str] = {}
        self.unwritable = ''
        self.objects: List[int] = []  # that were found, image by image

    def finish(self) -> Path:
        """Predict on all images and report; return the JSON's path."""
        if self.options.resume and self.results.file.exists():
            self._resume()
        else:
            self._tell_of_others()
        self.report(self.predict_all())
        return self.results.file

    def _resume(self) -> None:
        entries = self.results.resume()
        self.done = {(entry.get('image'), entry.get('frame')) for entry in entries}
        for entry in entries:
            self._count(entry)
        print(numbered('{} prediction[s] [is|are] in ', len(entries)) + printable(self.results.file)
              + ', which was cut off in the midst of another' * self.results.mended
              + numbered('; [its image is|their images are] not predicted on again', len(entries)))

    def _tell_of_others(self) -> None:
        """Say that predictions on other images will be replaced, before they are."""
        former = self.results.former()
        own = set(map(str, self.inputs.files))
        others = sum(entry.get('image') not in own for entry in former)
        if others:
            print(f'{printable(self.results.file)} holds {counted(len(former), "prediction")}, '
                  f'{others} on other images, and is replaced; --resume adds to it, --out-dir '
                  'names another folder', flush=True)

    def predict_all(self) -> Sequence[int]:
        """Predict on all images, up to a signal or a full disk; returns the signal in a list."""
        part = 'image' if self.options.tile is None else 'tile'
        with _noting_signals(part) as self.received, closing(self._outcomes()) as results:
            for outcome in results:
                self.take(outcome)
                if self.received or self.unwritable:
                    break
        if not self.received:
            self._forget()
        return self.received

    def _outcomes(self) -> Generator[Outcome, None, None]:
        workers = default_workers() if self.options.workers is None else self.options.workers
        items = self.inputs.read(self.done)
        if self.options.tile is not None:  # tiles have a bar of their own
            yield from self.inferencer.outcomes(items, self.options.batch_size, workers)
            return
        with closing(outcomes(self.inferencer, items, self._check, workers=workers,
                              batch_size=self.options.batch_size)) as results:
            yield from track(results, 'predicting',
                             total=len(self.inputs) - len(self.done) or None)

    def _check(self, item: Input) -> None:
        if item.pixels is None:
            reason = obstacle(item.file, self.inferencer.steps, self.limits)
        else:
            height, width = item.pixels.shape[:2]
            reason = size_obstacle((width, height), self.inferencer.steps, self.limits)
        if reason:
            raise DataError(reason)

    def take(self, outcome: Outcome) -> None:
        """Write an image's outcome down; an error is kept as its failure."""
        item = outcome.item
        self.tried.add(item.key)
        try:
            if outcome.error is not None:
                raise outcome.error
            entry = {**item.named, **self.inferencer.entry(outcome.sample)}
            # first, since --resume takes what has an entry for done
            self._draw(item, outcome.sample)
            self._write(self._append, entry)
            self._count(entry)
        except Exception as error:
            self.failures[item.key] = _reason(error, item.file)
        self._forget()

    def _draw(self, item: Input, sample: Any) -> None:
        try:
            picture = self.inferencer.picture(item.image, sample)
            name = self.inputs.picture(item, self.inferencer.picture_suffix)
            self._write(write_picture, self.pictures / name, picture)
        except Exception as error:
            self.failures[item.key] = f'the picture is missing: {_reason(error, item.file)}'

    def _forget(self) -> None:
        """Remove what was kept of an image in tiles, unless there is no room for its entry."""
        if self.options.tile is not None and not self.unwritable:
            self.inferencer.unfinished.remove()

    def _count(self, entry: dict) -> None:
        if 'instances' in entry:
            self.objects.append(len(entry['instances']))

    def _append(self, entry: dict) -> None:
        first = self.results.length == 0
        self.results.append(entry)
        if first:
            write_settings(self.results.file.parent, self.settings)

    def _write(self, write: Callable, *arguments) -> None:
        try:
            write(*arguments)
        except OSError as error:
            if error.errno in FULL:
                self.unwritable = error.strerror or str(error)
            raise

    def report(self, received: Sequence[int]) -> None:
        """Say what was done, and raise if that is not all."""
        if self.results.length:
            print(f'{counted(self.results.length, "prediction")} in '
                  f'{printable(self.results.file)}, pictures in {printable(self.pictures)}')
        if self.objects:
            print(_found(self.objects, self.options.score_thr, self.own_threshold))
        lines = [printable(f'  {describe(key)}: {reason}', kept='')
                 for key, reason in self.failures.items()]
        count = max(len(self.inputs), len(self.tried))
        if lines:
            lines.insert(0, left_out(len(lines), count))
        left = self.inputs.left(self.tried | self.done)
        rest = numbered('{} image[s] [is|are] not done, from ', len(left)) + printable(
            describe(left[0]), kept='') + ' on; --resume goes on with them' if left else ''
        if received:
            name = signal.Signals(received[0]).name
            lines.append(f'{name}: stopped after {len(self.tried)} of '
                         f'{counted(count, "image")}; {rest}')
        elif self.unwritable:
            lines.append(f'{printable(self.pictures.parent)}: {self.unwritable}; make room, or '
                         f'name another --out-dir. {rest}')
        if received:
            with suppress(OSError):  # of a terminal that is gone
                print('\n'.join(lines), file=sys.stderr)
            raise SystemExit(128 + received[0])
        if lines:
            raise DataError('\n'.join(lines))


def _found(objects: Sequence[int], threshold: float,
           own: Optional[Tuple[str, float]] = None) -> str:
    """Say how many objects were found, and what to try if there is none.

    Args:
        objects: How many were found, image by image.
        threshold: Their least score.
        own: The recipe's setting of its own threshold, and that.
    """
    images = sum(count > 0 for count in objects)
    line = (f'{counted(sum(objects), "object")} with a score of {threshold:g} (--score-thr) or '
            f'more, in {of_all(images, len(objects), "image")}')
    lower = ''
    setting, least = own or ('', 0.)
    if least > threshold:
        line += f'; the recipe itself drops scores below {least:g} ({setting})'
        lower = f'see what lower scores give with --cfg-options {setting}={threshold:g}, '
    elif threshold > LOW_SCORE:
        lower = f'see what lower scores give with --score-thr {LOW_SCORE:g}, '
    if images:
        return line
    return (f'{line}. Try: {lower}train longer, or start the training from a converted checkpoint; '
            'tools/test.py tells how well the model does on data with labels')


def _reason(error: Exception, file: Path) -> str:
    """Say in one line what became of an image."""
    message = str(error).strip()
    if isinstance(error, (DataError, UnreadableImageError)):
        return message.removeprefix(f'{file}: ')
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
    first = message.splitlines()[0] if message else 'no message'
    return f'{type(error).__name__}: {first}'


@contextmanager
def _noting_signals(part: str) -> Iterator[List[int]]:
    """Give out the list of the signals that came, so that the image or tile at hand is finished.

    An exception in its midst might be caught by a host. The second signal raises one all the same.
    """
    received: List[int] = []

    def note(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if received:
            raise SystemExit(128 + number)
        received.append(number)
        with suppress(OSError):  # of a terminal that is gone; a print may be under way, so no print
            os.write(2, f'{signal.Signals(number).name}: stopping after this {part}\n'.encode())

    former = {}
    if threading.current_thread() is threading.main_thread():  # no other may set any
        former = {number: signal.signal(number, note) for number in SIGNALS
                  # as nohup has SIGHUP, or of a handler that is not Python's
                  if signal.getsignal(number) not in (signal.SIG_IGN, None)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
