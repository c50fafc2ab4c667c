#!/usr/bin/env python
"""Measure how a detector's predictions change with the batch, without and with mask_padding."""
import argparse

import torch
from rich.console import Console
from rich.table import Table

from mmvssd.analysis.batch_dependence import measure
from mmvssd.cli.command_line import add_recipe_arguments, run
from mmvssd.cli.launch import load_config

METRICS = {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_recipe_arguments(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint of the detector')
    parser.add_argument('--batches', type=int, nargs='+', default=[8], metavar='SIZE',
                        help='sizes of batches to compare with single images (default: 8)')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out detections below SCORE (default: %(default)s)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='such as cpu or cuda:0; default: a GPU if there is one')
    args = parser.parse_args()
    results = measure(load_config(args.config, options=args.cfg_options), args.checkpoint,
                      args.batches, score_thr=args.score_thr, device=args.device)
    metrics = {name: title for name, title in METRICS.items() if name in results[0].metrics}
    table = Table('mask', 'batch', 'kept', 'lost', 'new', 'score: mean', 'max', 'IoU',
                  *metrics.values(),
                  title='Detections in a batch, against those of the images alone')
    for result in results:
        change = result.change
        table.add_row('on' if result.mask_padding else 'off', str(result.batch), str(change.kept),
                      str(change.lost), str(change.new), f'{change.mean_score:.4f}',
                      f'{change.max_score:.4f}', f'{change.mean_overlap:.4f}',
                      *(f'{result.metrics[name]:.3f}' for name in metrics))
    Console(width=100).print(table)


if __name__ == '__main__':
    run(main)
