"""Predictions on images: the hosts' inferencers behind one door, one form of JSON."""
import json
import os
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from mmvssd.checkpoint import read_checkpoint
from mmvssd.engine.launch import ConfigError, DataError

SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


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
        The JSON's path. It holds one entry for each image, with boxes as (x1, y1, x2, y2) in
        pixels and masks as COCO's run lengths, or the best classes.

    Raises:
        ConfigError: There is no inferencer for the recipe's host.
        CheckpointError: The checkpoint cannot be read, or is another model's.
        DataError: There is no image, or none that can be read. One broken image among
            others is left out and named at the end, as a DataError after all else is written.
    """
    scope = cfg.get('default_scope')
    if scope not in HOSTS:
        raise ConfigError(f'default_scope: got {scope}, expected one of {", ".join(HOSTS)}')
    read_checkpoint(checkpoint)
    files = find_images(images)
    broken = [str(file) for file in files if not _is_image(file)]
    readable = [str(file) for file in files if str(file) not in broken]
    if not readable:
        raise DataError(f'{images}: no image can be read: {", ".join(broken)}')
    out = Path(out_dir)
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    predictions = HOSTS[scope](cfg, checkpoint, readable, out / 'pictures', score_thr, device)
    _write(out / 'predictions.json', predictions)
    print_log(f'{len(readable)} pictures in {out / "pictures"}, '
              f'predictions in {out / "predictions.json"}', logger='current')
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


def _is_image(file: Path) -> bool:
    return mmcv.imread(str(file)) is not None


def _write(file: Path, content: list) -> None:
    partial = file.with_suffix('.partial')
    partial.write_text(json.dumps(content, indent=1))
    os.replace(partial, file)


def _detect(cfg: Config, checkpoint: str, files: Sequence[str], pictures: Path,
            score_thr: float, device: Optional[str]) -> List[dict]:
    from mmdet.apis import DetInferencer
    inferencer = DetInferencer(model=cfg, weights=checkpoint, device=device, show_progress=False)
    samples = inferencer(list(files), pred_score_thr=score_thr, out_dir=str(pictures),
                         return_datasamples=True, no_save_pred=True)['predictions']
    # the inferencer makes a folder of its own for pictures
    for file in (pictures / 'vis').iterdir():
        os.replace(file, pictures / file.name)
    (pictures / 'vis').rmdir()
    classes = inferencer.model.dataset_meta['classes']
    return [_detections(file, sample, classes, score_thr)
            for file, sample in zip(files, samples)]


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


def _classify(cfg: Config, checkpoint: str, files: Sequence[str], pictures: Path,
              score_thr: float, device: Optional[str]) -> List[dict]:
    from mmpretrain.apis import ImageClassificationInferencer
    inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device=device)
    # the host writes scores onto the picture in a size for photographs
    results = inferencer(list(files), show_dir=str(pictures), resize=224)
    return [_best_classes(file, result['pred_scores'], inferencer.classes)
            for file, result in zip(files, results)]


def _best_classes(file: str, scores: np.ndarray, classes: Sequence[str]) -> dict:
    best = np.argsort(-scores)[:5]
    return dict(image=file, classes=[dict(category=classes[label], score=float(scores[label]))
                                     for label in best])


#: How each host predicts, by default scope.
HOSTS: Dict[str, Callable[..., List[dict]]] = {'mmdet': _detect, 'mmpretrain': _classify}
