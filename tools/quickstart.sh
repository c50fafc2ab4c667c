#!/usr/bin/env bash
# The main job, from nothing: sample data, a VSSD classifier, a VSSD Mask R-CNN that starts from it,
# scores and pictures; --help says more.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF'
Usage: bash tools/quickstart.sh [FOLDER]

Makes sample data (scenes of handwritten digits), trains a small VSSD on it as a classifier
(MMPreTrain) and from that as the backbone of a Mask R-CNN (MMDetection), evaluates both on held-out
scenes and draws predictions. All of it lands in FOLDER, by default work_dirs/quickstart here.

It takes about 6 minutes on 2 cores and no GPU, after the set-up (see tools/setup.sh --help),
which it runs first. Run it again, and it goes on where it was interrupted. It ends with exit code 1
where a score is below what the recipes reach.
EOF
}

case ${1:-} in
    -h | --help) usage; exit ;;
    -*) usage >&2; exit 2 ;;
esac
out=$(realpath -m -- "${1:-$ROOT/work_dirs/quickstart}")

heading() { printf '\n==> [%d min %02d s] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

printf 'Quick start of mmvssd: about 6 minutes on 2 cores after the set-up; results in %s\n' "$out"
python=$(bash "$ROOT/tools/setup.sh" --print-python)
mkdir -p -- "$out"
cd -- "$out"
SECONDS=0

classifier=samples/vssd-nano_1xb64_digits.py
detector=samples/mask-rcnn_vssd-nano_fpn_1xb8_digits.py

tool() { "$python" "$ROOT/tools/$1" "${@:2}"; }

newest() {  # newest <work dir>: the checkpoint that its training ended with
    cat -- "$1/last_checkpoint"
}

heading 'sample data'
tool dataset_tools/make_sample_data.py data/sample_digits

heading 'training a VSSD classifier with MMPreTrain'
tool train.py "$classifier" --work-dir classifier --resume
heading 'testing it'
tool test.py "$classifier" "$(newest classifier)" --work-dir classifier_test

heading 'training a Mask R-CNN on that backbone with MMDetection'
tool train.py "$detector" --work-dir detector --resume \
    --cfg-options model.backbone.init_cfg.checkpoint="$(newest classifier)"
heading 'testing it'
tool test.py "$detector" "$(newest detector)" --work-dir detector_test

heading 'drawing predictions on held-out scenes'
tool predict.py "$detector" "$(newest detector)" data/sample_digits/coco/val2017 \
    --out-dir predictions --score-thr 0.5

heading 'summary'
"$python" - <<'EOF'
import json
import sys
from pathlib import Path

FLOORS = {  # what the recipes reach, with room for other machines' arithmetic
    'classifier_test': {'accuracy/top1': 90.0},
    'detector_test': {'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP_50': 0.5},
}
below = 0
for folder, floors in FLOORS.items():
    newest = max(Path(folder).glob('*/*.json'), key=lambda file: file.stat().st_mtime)
    scores = json.loads(newest.read_text())
    for name, floor in floors.items():
        below += scores[name] < floor
        print(f'{name:20} {scores[name]:8.3f}   (at least {floor})'
              + ('   TOO LOW' if scores[name] < floor else ''))
print(f'pictures             {Path("predictions/pictures").resolve()}')
print(f'boxes and masks      {Path("predictions/predictions.json").resolve()}')
sys.exit(1 if below else 0)
EOF
printf 'Done in %d min %02d s after the set-up.\n' $((SECONDS / 60)) $((SECONDS % 60))
