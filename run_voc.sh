#!/usr/bin/env bash
# SIPE on PASCAL VOC 2012, every step in order; running it again continues it.
#   VOC_ROOT=/data/VOCdevkit/VOC2012 SESSION=exp bash run_voc.sh
# Settings, as environment variables:
#   VOC_ROOT   the folder with JPEGImages, SegmentationClass, Annotations, ImageSets
#   SBD_ROOT   SBD's folder, only to make the list trainaug where you have no such list
#   SESSION    folder of the results: a name or a path
#   DEVICE     auto, cpu, cuda, cuda:N         NUM_WORKERS   processes that read pictures
#   REFINE     irn (steps 2.1 to 2.3) or crf, which needs no training
#   TRAIN_FLAGS, CAM_FLAGS, EVAL_FLAGS, CAM2IR_FLAGS, IRN_FLAGS, LABEL_FLAGS
#              more flags of 1.1, 1.2, 1.3, 2.1, 2.2, 2.3; see --help of each program
set -euo pipefail
cd "$(dirname "$0")"
source tool/setup.sh

VOC_ROOT=${VOC_ROOT:-../PascalVOC2012/VOCdevkit/VOC2012}
SESSION=${SESSION:-exp}
ALL=(--dataset voc --dataset_root "$VOC_ROOT" --session_name "$SESSION" --device "${DEVICE:-auto}")
[ -z "${NUM_WORKERS:-}" ] || ALL+=(--num_workers "$NUM_WORKERS")
read -ra TRAIN <<< "${TRAIN_FLAGS:-}"
read -ra CAM <<< "${CAM_FLAGS:-}"
read -ra EVAL <<< "${EVAL_FLAGS:-}"
read -ra CAM2IR <<< "${CAM2IR_FLAGS:-}"
read -ra IRN <<< "${IRN_FLAGS:-}"
read -ra LABEL <<< "${LABEL_FLAGS:-}"
REFINE=${REFINE:-irn}
mkdir -p "$SESSION"

step "0    check the pictures, find or make the list trainaug" prepare \
    "$PYTHON" -m data.voc --dataset_root "$VOC_ROOT" ${SBD_ROOT:+--sbd_root "$SBD_ROOT"}
step "1.1  train SIPE -> $SESSION/ckpt/final.pth" train_sipe \
    "$PYTHON" train_resnet50_SIPE.py "${ALL[@]}" "${TRAIN[@]}"
step "1.2  localization maps of trainaug -> $SESSION/npy" make_cam \
    "$PYTHON" make_cam.py "${ALL[@]}" "${CAM[@]}"
step "1.3  mIoU of the maps on train -> $SESSION/eval_cam.json" eval_cam \
    "$PYTHON" eval_cam.py "${ALL[@]}" "${EVAL[@]}"
if [ "$REFINE" = irn ]; then
    step "2.1  confident areas -> $SESSION/ir_label" cam2ir \
        "$PYTHON" cam2ir.py "${ALL[@]}" "${CAM2IR[@]}"
    step "2.2  train IRN -> $SESSION/ckpt/irn.pth" train_irn \
        "$PYTHON" train_irn.py "${ALL[@]}" "${IRN[@]}"
fi
step "2.3  pseudo labels of trainaug -> $SESSION/pseudo_label" make_seg_labels \
    "$PYTHON" make_seg_labels.py "${ALL[@]}" --refine "$REFINE" "${LABEL[@]}"
step "2.4  mIoU of the labels on train -> $SESSION/eval_pseudo_label.json" eval_seg_labels \
    "$PYTHON" eval_seg_labels.py "${ALL[@]}"
