#!/usr/bin/env bash
# The whole method on pictures that the project draws for itself: minutes on two cores, no download.
#   bash run_demo.sh
#   SEED=2 SESSION=demo_2 bash run_demo.sh
#   SEEDS="1 2 3" bash run_demo.sh          all of them, and a table of means
# TRAIN_FLAGS holds more flags of step 1.1, as in TRAIN_FLAGS="--max_epochs 14".
# Ends with a table; pictures are in $SESSION/report.html and report.png, the figures in results.json.
# Running it again continues it; delete the folder $SESSION to begin anew.
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "$0")"
source tool/setup.sh

from_caller SESSION
SESSION=${SESSION:-demo}
each_seed
SEED=${SEED:-1}
PLAIN=$SESSION/cam_only # the classifier without GSC, which plain CAM is taken from
DATA=(--dataset demo)
CAM=(--scales 1.0 1.5)
TRAIN=(--seed "$SEED" --batch_size 8 --max_epochs 7 --lr 0.02)
TRAIN+=(--crop_size 192 --resize_min 160 --resize_max 224)
TRAIN+=(--print_freq 50 --val_freq 150 --val_list val)
words TRAIN_FLAGS MORE
TRAIN+=("${MORE[@]}")
IRN=(--seed "$SEED" --irn_batch_size 4 --irn_crop_size 160 --irn_num_epoches 4 --edge_only)
# A narrow network learns at a higher rate than the recipe's.
SEG=(--seed "$SEED" --recipe short --crop_size 96 --lr 2e-4 --head_lr 1 --iterations 640)
make_session

step "1.1  train SIPE on image-level labels" train_sipe \
    "$PYTHON" train_resnet50_SIPE.py "${DATA[@]}" --session_name "$SESSION" "${TRAIN[@]}"
step "1.1  train the same classifier without GSC, for plain CAM" train_cam \
    "$PYTHON" train_resnet50_SIPE.py "${DATA[@]}" --session_name "$PLAIN" "${TRAIN[@]}" --gsc_weight 0
step "1.2  localization maps of SIPE" make_cam \
    "$PYTHON" make_cam.py "${DATA[@]}" --session_name "$SESSION" "${CAM[@]}" --visualize
step "1.2  plain CAM of the other classifier" make_plain_cam \
    "$PYTHON" make_cam.py "${DATA[@]}" --session_name "$PLAIN" "${CAM[@]}" --save_cam
step "1.3  mIoU of IS-CAM" eval_cam \
    "$PYTHON" eval_cam.py "${DATA[@]}" --session_name "$SESSION"
step "1.3  mIoU of plain CAM at every background threshold" eval_plain_cam \
    "$PYTHON" eval_cam.py "${DATA[@]}" --session_name "$PLAIN"

step "2.1  confident areas, by a dense CRF" cam2ir \
    "$PYTHON" cam2ir.py "${DATA[@]}" --session_name "$SESSION"
step "2.2  train IRN on them" train_irn \
    "$PYTHON" train_irn.py "${DATA[@]}" --session_name "$SESSION" "${IRN[@]}"
step "2.3  pseudo labels by a random walk that stops at IRN's edges" irn_labels \
    "$PYTHON" make_seg_labels.py "${DATA[@]}" --session_name "$SESSION" --visualize \
    --irn_crop_size 160 --exp_times 5 # small maps: fewer steps of the walk
step "2.3  pseudo labels by a dense CRF alone" crf_labels \
    "$PYTHON" make_seg_labels.py "${DATA[@]}" --session_name "$SESSION" --refine crf \
    --sem_seg_out_dir "$SESSION/crf_label"
step "2.4  mIoU of IRN's labels" eval_irn \
    "$PYTHON" eval_seg_labels.py "${DATA[@]}" --session_name "$SESSION"
step "2.4  mIoU of the CRF's labels" eval_crf \
    "$PYTHON" eval_seg_labels.py "${DATA[@]}" --session_name "$SESSION" --label_dir "$SESSION/crf_label"

step "3.1  train DeepLab v2, narrow, on IRN's labels" train_seg \
    "$PYTHON" train_seg.py "${DATA[@]}" --session_name "$SESSION" "${SEG[@]}"
step "3.2  segment the pictures of val, which no step has seen" infer_seg \
    "$PYTHON" infer_seg.py "${DATA[@]}" --session_name "$SESSION" --visualize
step "3.3  mIoU of the segmentation" eval_seg \
    "$PYTHON" eval_seg_labels.py "${DATA[@]}" --session_name "$SESSION" \
    --label_dir "$SESSION/seg_deeplabv2_resnet101" --eval_list val

echo
"$PYTHON" -m tool.report "$SESSION"
