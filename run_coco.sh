#!/usr/bin/env bash
# SIPE on MS COCO 2014, every step in order; running it again continues it.
#   COCO_ROOT=/data/coco2014 SESSION=exp_coco bash run_coco.sh
# Settings, as environment variables:
#   COCO_ROOT  the folder with annotations and images/train2014 (or train2014), as downloaded
#   LINK_ROOT  where COCO_ROOT cannot be written: a folder to make, with links to it and with the masks
#   DOWNLOAD   1 fetches the 20 GB that are missing in COCO_ROOT
#   SESSION    folder of the results: a name or a path
#   DEVICE     auto, cpu, cuda, cuda:N         NUM_WORKERS   processes that read pictures
#   NPROC      processes that share the work, one a GPU (1); or, for several machines, all of
#   LAUNCH     such as "torchrun --nnodes=2 --nproc_per_node=4 --rdzv_endpoint=host:29500"
#   REFINE     crf, as published; or irn (steps 2.1 to 2.3), which trains another network
#   SEG_MODEL  deeplabv2_resnet101, deeplabv1_resnet38 (which needs SEG_FLAGS="--initial FILE"),
#              or none to stop after the pseudo labels
#   EXPORT     formats for the pseudo labels, such as "cvat coco"; see docs/export.md
#   SEED       of all chance (15); SEEDS="1 2 3" runs all of them, and ends with a table of means
#   ABLATION   1 trains the classifier without GSC too, for the figures of CAM and of CAM with IPE
#   DOCTOR     0 starts without python -m tool.doctor, which looks at everything first
#   PREPARE_FLAGS, TRAIN_FLAGS, CAM_FLAGS, EVAL_FLAGS, CAM2IR_FLAGS, IRN_FLAGS, LABEL_FLAGS, SCORE_FLAGS,
#   SEG_FLAGS, INFER_FLAGS
#              more flags of 0, 1.1, 1.2, 1.3, 2.1, 2.2, 2.3, 2.4, 3.1, 3.2; see --help of each program
# Relative paths in *_ROOT and SESSION count from where you are, those in *_FLAGS from this folder. The
# words of *_FLAGS may be quoted, as in TRAIN_FLAGS="--pretrained '/my weights/resnet50.pth'".
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "$0")"
source tool/setup.sh

from_caller COCO_ROOT LINK_ROOT SESSION
COCO_ROOT=${COCO_ROOT:-../ms_coco_14&15}
SESSION=${SESSION:-exp_coco}
each_seed
REFINE=${REFINE:-crf}
ALL=(--dataset coco --dataset_root "${LINK_ROOT:-$COCO_ROOT}")
LEARNED=train JUDGED=train TESTED=val
# As published, the training is not validated. Where TRAIN_FLAGS asks for it, a sample of the 82,081
# pictures of train serves, since all of them would take longer than the training.
TRAIN_FLAGS="--val_freq 0 --val_list train_sample ${TRAIN_FLAGS:-}"
source tool/pipeline.sh

words PREPARE_FLAGS PREPARE
step "0    lists, labels and masks from the annotations" prepare \
    "$PYTHON" -m data.coco --dataset_root "$COCO_ROOT" ${LINK_ROOT:+--link_root "$LINK_ROOT"} \
    ${NUM_WORKERS:+--num_workers "$NUM_WORKERS"} "${FETCH[@]}" "${PREPARE[@]}"
run_steps
