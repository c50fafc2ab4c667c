"""Predictions on images, of the hosts' models or exported files: pictures, one form of JSON."""
import errno
import os
import signal
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

from mmengine.config import Config
from rich.progress import track

from mmvssd.checkpoint import dataset_meta, read_checkpoint, require_fit
from mmvssd.cli.file_inferencers import file_inferencer
from mmvssd.cli.image_files import Limits, find_images, obstacle
from mmvssd.cli.json_list import JsonList
from mmvssd.cli.launch import check_device, check_output_file, check_writable, require
from mmvssd.engine.data.batch_check import BatchCheck
from mmvssd.engine.record.pictures import picture_names, write_picture
from mmvssd.errors import ConfigError, DataError, UnreadableImageError, printable
from mmvssd.phrases import emptiness

#: Pixels of the largest image that is predicted on, if nothing else is asked for.
MAX_PIXELS = 2**26

#: Signals that end a run after the image at hand; a second one ends it at once.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Errors after which no other result can be written either.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def predict(cfg: Config, checkpoint: str, images: str, out_dir: str, *, score_thr: float = 0.3,
            device: Optional[str] = None, max_pixels: int = MAX_PIXELS) -> Path:
    """Draw predictions and write them down, image by image.

    Args:
        cfg: Recipe of the model.
        checkpoint: Its weights.
        images: An image, or a folder whose images are taken in the order of their names.
        out_dir: Folder for ``pictures/`` and ``predictions.json``.
        score_thr: Detections below this score are left out, 0 to 1.
        device: Device to run on; None takes a GPU if there is one.
        max_pixels: Pixels of the largest image that is predicted on. The recipe may hand the model
            at most a quarter of it.

    Returns:
        The JSON's path. It is whole after every image, and holds one entry for each that was
        predicted on: ``image``, and one of

        - ``instances``: ``category``, ``score``, ``bbox`` as (x1, y1, x2, y2) in pixels, and a
          ``segmentation`` if the model has masks;
        - ``segments``: ``category``, ``share`` of the image's pixels, and the ``segmentation``,
          for each class that was found, the largest first;
        - ``classes``: ``category`` and ``score`` of the best five.

        A ``segmentation`` is a mask in the image's size as COCO's run lengths. A label map is
        written so too, class by class: nothing is lost, pycocotools reads it as it reads a
        detector's, and no second file has to be kept beside the JSON with a list of what its
        numbers mean.

    Raises:
        ConfigError: There is no inferencer for the recipe's host, no such device, or an option
            does not fit.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        DataError: There is no image, or some could not be predicted on or drawn. These are named
            with the reason after all others are written. After a full disk, the rest is named.
        SystemExit: SIGINT, SIGTERM or SIGHUP came; the status is 128 and its number.
    """
    # these need mmcv, which an exported file does not
    from mmvssd.cli.band_inferencers import inferencer_class
    from mmvssd.cli.inferencers import HOSTS
    scope = cfg.get('default_scope')
    if scope not in HOSTS:
        raise ConfigError(f'default_scope: got {scope}, expected one of {", ".join(HOSTS)}')
    _check_options(out_dir, score_thr, max_pixels)
    if device is not None:
        check_device(device)
    require(cfg, 'test_dataloader')
    weights = read_checkpoint(checkpoint)
    files = find_images(images)
    out = Path(out_dir)
    _check_output(out, files)
    inferencer = inferencer_class(cfg)(cfg, checkpoint, dataset_meta(checkpoint, weights),
                                       score_thr, device)
    require_fit(checkpoint, weights, inferencer.model)
    inferencer.check_classes()
    BatchCheck.watch(inferencer.model)
    return _Run(inferencer, files, out, Limits.of(max_pixels)).finish()


def predict_with_file(model: str, images: str, out_dir: str, *, score_thr: float = 0.3,
                      max_pixels: int = MAX_PIXELS) -> Path:
    """Draw predictions of an exported file and write them down, as :func:`predict` does.

    Neither mmcv nor the hosts are needed; the file is run on the CPU.

    Args:
        model: An ONNX file of ``tools/deployment/export.py``, or one of OpenVINO.
        images, out_dir, score_thr, max_pixels: As :func:`predict` takes them.

    Raises:
        ConfigError: The file is none of those, its runtime is not installed, or an option does
            not fit.
        DataError: As :func:`predict` raises it.
        SystemExit: The same.
    """
    _check_options(out_dir, score_thr, max_pixels)
    inferencer = file_inferencer(model, score_thr)
    files = find_images(images)
    out = Path(out_dir)
    _check_output(out, files)
    return _Run(inferencer, files, out, Limits.of(max_pixels)).finish()


def _check_options(out_dir, score_thr, max_pixels):
    if emptiness(out_dir):
        raise ConfigError(f'--out-dir: {emptiness(out_dir)}')
    if not 0 <= score_thr <= 1:  # nor is it NaN
        raise ConfigError(f'--score-thr: got {score_thr}, expected a score from 0 to 1')
    if max_pixels < 1:
        raise ConfigError(f'--max-pixels: got {max_pixels}, expected a positive number')


def _check_output(out: Path, files: Sequence[Path]) -> None:
    check_writable(str(out), '--out-dir')
    check_writable(str(out / 'pictures'), '--out-dir')
    check_output_file(str(out / 'predictions.json'), '--out-dir')
    if files[0].parent.resolve() == (out / 'pictures').resolve():
        raise ConfigError(f'--out-dir: the pictures would replace the images in {files[0].parent}; '
                          'name another folder')


class _Run:
    """Images on their way: what was written, what failed, how far it came.

    Args:
        inferencer: An ``Inferencer`` of a host, or a ``FileInferencer``.
        files: The images.
        out: Folder for the results.
        limits: Sizes of images that are predicted on.
    """

    def __init__(self, inferencer, files: Sequence[Path], out: Path, limits: Limits):
        self.inferencer, self.files, self.limits = inferencer, files, limits
        self.pictures = out / 'pictures'
        self.names = picture_names(files, suffix=inferencer.picture_suffix)
        self.results = JsonList(out / 'predictions.json')
        self.tried = 0
        self.failures: Dict[Path, str] = {}
        self.unwritable = ''

    def finish(self) -> Path:
        """Predict on all images and report; return the JSON's path."""
        self.report(self.predict_all())
        return self.results.file

    def predict_all(self) -> Sequence[int]:
        """Predict on all images, up to a signal or a full disk; returns the signal in a list."""
        with _noting_signals() as received:
            for file in track(self.files, 'predicting'):
                self.predict(file)
                if received or self.unwritable:
                    break
        return received

    def predict(self, file: Path) -> None:
        """Predict on an image and write that down; whatever it raises is kept as its failure."""
        self.tried += 1
        missing = ''
        try:
            reason = obstacle(file, self.inferencer.steps, self.limits)
            if reason:
                raise DataError(reason)
            sample = self.inferencer.predict(str(file))
            entry = dict(image=str(file), **self.inferencer.entry(sample))
            self._write(self.results.append, entry)
            missing = 'the picture is missing: '
            picture = self.inferencer.picture(str(file), sample)
            self._write(write_picture, self.pictures / self.names[file], picture)
        except Exception as error:
            self.failures[file] = missing + _reason(error, file)

    def _write(self, write: Callable, *arguments) -> None:
        try:
            write(*arguments)
        except OSError as error:
            if error.errno in FULL:
                self.unwritable = error.strerror
            raise

    def report(self, received: Sequence[int]) -> None:
        """Say what was done, and raise if that is not all."""
        if self.results.length:
            print(f'{self.results.length} predictions in {printable(self.results.file)}, '
                  f'pictures in {printable(self.pictures)}')
        lines = [printable(f'  {file}: {reason}', kept='')
                 for file, reason in self.failures.items()]
        if lines:
            lines.insert(0, f'{len(lines)} of {len(self.files)} images were left out:')
        left = self.files[self.tried:]
        rest = (f'{len(left)} images are not done, from {printable(left[0], kept="")} on'
                if left else '')
        if received:
            name = signal.Signals(received[0]).name
            lines.append(f'{name}: stopped after {self.tried} of {len(self.files)} images; {rest}')
        elif self.unwritable:
            lines.append(f'{printable(self.pictures.parent)}: {self.unwritable}; make room, or '
                         f'name another --out-dir. {rest}')
        if received:
            with suppress(OSError):  # of a terminal that is gone
                print('\n'.join(lines), file=sys.stderr)
            raise SystemExit(128 + received[0])
        if lines:
            raise DataError('\n'.join(lines))


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
def _noting_signals() -> Iterator[List[int]]:
    """Give out the list of the signals that came, so that the image at hand is finished.

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
            os.write(2, f'{signal.Signals(number).name}: stopping after this image\n'.encode())

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
