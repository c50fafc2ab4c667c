#!/usr/bin/env bash
# A sample task, from nothing: sample data, a classifier, a detector or segmentor that starts from
# it, scores and pictures; --help says more.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'EOF'
Usage: bash tools/quickstart.sh [--task det|seg|cls] [--family vssd|vmamba] [FOLDER]

Make sample data (scenes of handwritten digits), and train a small classifier on it (MMPreTrain): a
VSSD, or a VMamba with --family vmamba. Then do a task with it on held-out scenes:

  det  train a Mask R-CNN (MMDetection), evaluate it, draw boxes and masks; the default
  seg  train a UperNet (MMSegmentation), evaluate it at a single scale and with --tta, draw
       overlays
  cls  only the classifier

Results go to FOLDER, by default work_dirs/quickstart here; those of a VMamba to FOLDER/vmamba.
The set-up runs first (see tools/setup.sh --help). After it, on 2 cores and no GPU, det and seg take
about 6 minutes and cls 2, with VMamba up to 2 more. If it was interrupted, run it again: it goes on
from there. A second task in the same FOLDER uses the classifier of the first. The exit code is 1 if
a score is below what the recipes reach.
EOF
}

task=det family=vssd folder=$ROOT/work_dirs/quickstart
while (($#)); do
    case $1 in
        -h | --help) usage; exit ;;
        --task=*) task=${1#*=} ;;
        --task) task=${2:-}; shift $(($# > 1)) ;;
        --family=*) family=${1#*=} ;;
        --family) family=${2:-}; shift $(($# > 1)) ;;
        -*) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
        *) folder=$1 ;;
    esac
    shift
done
case $task in
    det | seg) minutes=6 ;;
    cls) minutes=2 ;;
    *) echo "--task: got '$task', expected det, seg or cls" >&2; exit 2 ;;
esac
case $family in
    vssd) name=VSSD ;;
    vmamba) name=VMamba folder=$folder/vmamba minutes=$((minutes + 2)) ;;
    *) echo "--family: got '$family', expected vssd or vmamba" >&2; exit 2 ;;
esac
out=$(realpath -m -- "$folder")

printf 'Quick start of mmvssd, %s with %s: about %s minutes on 2 cores after the set-up; results in %s\n' \
    "$task" "$name" "$minutes" "$out"
python=$(bash "$ROOT/tools/setup.sh" --print-python)
mkdir -p -- "$out"
cd -- "$out"
SECONDS=0

classifier=samples/$family-nano_1xb64_digits.py
detector=samples/mask-rcnn_$family-nano_fpn_1xb8_digits.py
segmentor=samples/upernet_$family-nano_1xb8_digits.py

heading() { printf '\n==> [%d min %02d s] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$*"; }

tool() { "$python" "$ROOT/tools/$1" "${@:2}"; }

newest() {  # newest <work dir>: the checkpoint that its training ended with
    cat -- "$1/last_checkpoint"
}

classify() {
    heading "training a $name classifier with MMPreTrain"
    tool train.py "$classifier" --work-dir classifier --resume
    heading 'testing it'
    tool test.py "$classifier" "$(newest classifier)" --work-dir classifier_test
}

detect() {
    heading 'training a Mask R-CNN on that backbone with MMDetection'
    tool train.py "$detector" --work-dir detector --resume \
        --cfg-options model.backbone.init_cfg.checkpoint="$(newest classifier)"
    heading 'testing it'
    tool test.py "$detector" "$(newest detector)" --work-dir detector_test
    heading 'drawing predictions on held-out scenes'
    tool predict.py "$detector" "$(newest detector)" data/sample_digits/coco/val2017 \
        --out-dir predictions --score-thr 0.5
}

segment() {
    heading 'training a UperNet on that backbone with MMSegmentation'
    tool train.py "$segmentor" --work-dir segmentor --resume \
        --cfg-options model.backbone.init_cfg.checkpoint="$(newest classifier)"
    heading 'testing it at a single scale'
    tool test.py "$segmentor" "$(newest segmentor)" --work-dir segmentor_test
    heading 'testing it averaged over scales'
    tool test.py "$segmentor" "$(newest segmentor)" --work-dir segmentor_tta --tta
    heading 'drawing predictions on held-out scenes'
    tool predict.py "$segmentor" "$(newest segmentor)" \
        data/sample_digits/ade20k/images/validation --out-dir segmentation
}

summary() {  # summary <folder of a test>...: exit status 1 where a score is too low
    heading 'summary'
    "$python" - "$family" "$@" <<'EOF'
import json
import sys
from pathlib import Path

family, *folders = sys.argv[1:]
FLOORS = {  # what the recipes reach, with room for other machines' arithmetic
    'classifier_test': {'accuracy/top1': dict(vssd=90.0, vmamba=80.0)[family]},
    'detector_test': {'coco/bbox_mAP_50': 0.5, 'coco/segm_mAP_50': 0.5},
    'segmentor_test': {'mIoU': dict(vssd=50.0, vmamba=42.0)[family]},
}
scores = {}
for folder in folders:
    newest = max(Path(folder).glob('*/[0-9]*.json'), key=lambda file: file.stat().st_mtime)
    scores[folder] = json.loads(newest.read_text())
if 'segmentor_tta' in scores:  # averaging may cost a point, not more
    single = scores['segmentor_test']['mIoU']
    FLOORS['segmentor_tta'] = {'mIoU': round(single - 1, 2)}
below = 0
for folder in scores:
    for name, floor in FLOORS[folder].items():
        score = scores[folder][name]
        below += score < floor
        print(f'{folder:16} {name:16} {score:8.3f}   (at least {floor:g})'
              + ('   TOO LOW' if score < floor else ''))
sys.exit(1 if below else 0)
EOF
}

where() {  # where <folder of predictions> <what its JSON holds>
    printf '%-33s %s\n' pictures "$out/$1/pictures" "$2" "$out/$1/predictions.json"
}

next_step() {  # what the models are good for, and what to do with other images
    printf '%s\n' 'These models know only digits. For your own data, from the root of the checkout:'
    printf '    %s tools/new_recipe.py FOLDER --arch vssd-nano --out mine/recipe.py\n' "$python"
    printf '    %s tools/train.py mine/recipe.py\n' "$python"
}

heading 'sample data'
tool dataset_tools/make_sample_data.py data/sample_digits
classify
status=0
case $task in
    det)
        detect
        summary classifier_test detector_test || status=1
        where predictions 'boxes and masks'
        ;;
    seg)
        segment
        summary classifier_test segmentor_test segmentor_tta || status=1
        where segmentation 'classes and masks'
        ;;
    cls) summary classifier_test || status=1 ;;
esac
printf 'Done in %d min %02d s after the set-up.\n' $((SECONDS / 60)) $((SECONDS % 60))
next_step
exit "$status"
