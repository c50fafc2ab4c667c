"""Predictions on images: the hosts' inferencers behind one door, one form of JSON."""
import json
import os
import tempfile
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from rich.progress import track

from mmvssd.checkpoint import read_checkpoint, require_class_names, require_fit
from mmvssd.cli.launch import check_device, check_writable, require
from mmvssd.engine.data.batch_check import BatchCheck
from mmvssd.errors import ConfigError, DataError
from mmvssd.files import write_whole

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')

#: What predicts one image: draws into a folder, returns the image's entry of the JSON.
Predictor = Callable[[str, str], dict]


def predict(cfg: Config, checkpoint: str, images: str, out_dir: str, *, score_thr: float = 0.3,
            device: Optional[str] = None) -> Path:
    """Draw predictions and write them down.

    Args:
        cfg: Recipe of the model.
        checkpoint: Its weights.
        images: An image, or a folder whose images are taken in the order of their names.
        out_dir: Folder for ``pictures/`` and ``predictions.json``.
        score_thr: Detections below this score are left out.
        device: Device to run on; None takes a GPU where there is one.

    Returns:
        The JSON's path. It holds one entry for each image: ``image``, and one of

        - ``instances``: ``category``, ``score``, ``bbox`` as (x1, y1, x2, y2) in pixels, and a
          ``segmentation`` where the model has masks;
        - ``segments``: ``category``, ``share`` of the image's pixels, and the ``segmentation``,
          for each class that was found, the largest first;
        - ``classes``: ``category`` and ``score`` of the best five.

        A ``segmentation`` is a mask in the image's size as COCO's run lengths. A label map is
        written so too, class by class: nothing is lost, pycocotools reads it as it reads a
        detector's, and no second file has to be kept beside the JSON with a list of what its
        numbers mean.

    Raises:
        ConfigError: There is no inferencer for the recipe's host, or no such device.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        DataError: There is no image, or none that can be read. One broken image among
            others is left out and named at the end, as a DataError after all else is written.
    """
    scope = cfg.get('default_scope')
    if scope not in HOSTS:
        raise ConfigError(f'default_scope: got {scope}, expected one of {", ".join(HOSTS)}')
    if device:
        check_device(device)
    require(cfg, 'test_dataloader')
    weights = read_checkpoint(checkpoint)
    files = find_images(images)
    check_writable(out_dir, '--out-dir')
    predictor, model = HOSTS[scope](cfg, checkpoint, score_thr, device)
    require_fit(checkpoint, weights, model)
    require_class_names(checkpoint, weights, model)
    BatchCheck.watch(model)
    out = Path(out_dir)
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    predictions, broken = [], []
    for file in track(files, 'predicting'):
        if mmcv.imread(str(file)) is None:
            broken.append(str(file))
        else:
            predictions.append(_predict_one(predictor, file, out / 'pictures'))
    if not predictions:
        raise DataError(f'{images}: no image can be read: {", ".join(broken)}')
    write_whole(out / 'predictions.json', json.dumps(predictions, indent=1))
    print(f'{len(predictions)} pictures in {out / "pictures"}, '
          f'predictions in {out / "predictions.json"}')
    if broken:
        raise DataError(f'{len(broken)} of {len(files)} images cannot be read and were left out: '
                        f'{", ".join(broken)}')
    return out / 'predictions.json'


def find_images(path: str) -> List[Path]:
    """List an image file, or the images of a folder by name; DataError where there is none."""
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f'{path}: no such image or folder (seen from {Path.cwd()})')
    files = sorted(file for file in root.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f'{path}: holds no image ({", ".join(SUFFIXES)})')
    return files


def _predict_one(predictor: Predictor, file: Path, pictures: Path) -> dict:
    """Predict and draw; each inferencer names its picture after its own fashion."""
    with tempfile.TemporaryDirectory(dir=pictures, prefix='.drawing-') as folder:
        entry = predictor(str(file), folder)
        (drawn, ) = (path for path in Path(folder).rglob('*') if path.is_file())
        # the whole name: a.jpg and a.png may lie side by side
        name = file.name if drawn.suffix == file.suffix else file.name + drawn.suffix
        os.replace(drawn, pictures / name)
    return entry


def _detector(cfg: Config, checkpoint: str, score_thr: float, device: Optional[str]):
    from mmdet.apis import DetInferencer
    inferencer = DetInferencer(model=cfg, weights=checkpoint, device=device, show_progress=False)
    classes = inferencer.model.dataset_meta['classes']

    def predictor(file: str, folder: str) -> dict:
        (sample, ) = inferencer([file], pred_score_thr=score_thr, out_dir=folder,
                                return_datasamples=True, no_save_pred=True)['predictions']
        return _detections(file, sample, classes, score_thr)

    return predictor, inferencer.model


def _detections(file: str, sample: BaseDataElement, classes: Sequence[str],
                score_thr: float) -> dict:
    found = sample.pred_instances.cpu().numpy()
    found = found[found.scores >= score_thr]
    instances = [dict(category=classes[label], score=float(score), bbox=box.tolist())
                 for label, score, box in zip(found.labels, found.scores, found.bboxes)]
    if 'masks' in found:
        for instance, mask in zip(instances, found.masks):
            instance['segmentation'] = _run_lengths(mask)
    return dict(image=file, instances=instances)


def _run_lengths(mask: np.ndarray) -> dict:
    from pycocotools import mask as coco_mask
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=encoded['size'], counts=encoded['counts'].decode())


def _segmentor(cfg: Config, checkpoint: str, score_thr: float, device: Optional[str]):
    from mmseg.apis import MMSegInferencer
    from mmseg.registry import DATASETS
    inferencer = MMSegInferencer(cfg, weights=checkpoint, device=device)
    inferencer.show_progress = False
    # a converted checkpoint may know no class names, and the host would take those of Cityscapes
    named = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True)).metainfo
    inferencer.model.dataset_meta = dict(classes=named['classes'], palette=named['palette'])

    def predictor(file: str, folder: str) -> dict:
        sample = inferencer(file, return_datasamples=True, out_dir=folder, opacity=0.5)
        return _segments(file, sample.pred_sem_seg.data[0].cpu().numpy(), named['classes'])

    return predictor, inferencer.model


def _segments(file: str, labels: np.ndarray, classes: Sequence[str]) -> dict:
    segments = [dict(category=classes[label], share=float(np.mean(labels == label)),
                     segmentation=_run_lengths(labels == label))
                for label in np.unique(labels)]
    return dict(image=file, segments=sorted(segments, key=lambda found: -found['share']))


def _classifier(cfg: Config, checkpoint: str, score_thr: float, device: Optional[str]):
    from mmpretrain.apis import ImageClassificationInferencer
    inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
    # a converted checkpoint knows no class names, and a plain folder's data set has none
    named = cfg.test_dataloader.dataset.get('metainfo', {}).get('classes')
    classes = inferencer.classes or named

    def predictor(file: str, folder: str) -> dict:
        # the host writes scores onto the picture in a size for photographs
        sample = inferencer([file], return_datasamples=True, show_dir=folder, resize=224)[0]
        return _best_classes(file, sample.pred_score.cpu().numpy(), classes)

    return predictor, inferencer.model


def _best_classes(file: str, scores: np.ndarray, classes: Optional[Sequence[str]]) -> dict:
    best = np.argsort(-scores)[:5]
    return dict(image=file, classes=[
        dict(category=classes[label] if classes else str(label), score=float(scores[label]))
        for label in best])


#: How each host predicts, by default scope: makes a predictor and its model.
HOSTS: Dict[str, Callable] = {
    'mmdet': _detector, 'mmseg': _segmentor, 'mmpretrain': _classifier}
