#!/usr/bin/env bash
# SIPE on PASCAL VOC 2012, every step in order; running it again continues it.
#   VOC_ROOT=/data/VOCdevkit/VOC2012 SESSION=exp bash run_voc.sh
# Settings, as environment variables:
#   VOC_ROOT   the folder with JPEGImages, SegmentationClass, Annotations, ImageSets
#   SBD_ROOT   SBD's folder, only to make the list trainaug where you have no such list
#   SESSION    folder of the results: a name or a path
#   DEVICE     auto, cpu, cuda, cuda:N         NUM_WORKERS   processes that read pictures
#   NPROC      processes that share the work, one a GPU (1); or, for several machines, all of
#   LAUNCH     such as "torchrun --nnodes=2 --nproc_per_node=4 --rdzv_endpoint=host:29500"
#   REFINE     irn (steps 2.1 to 2.3) or crf, which needs no training
#   SEG_MODEL  deeplabv2_resnet101, deeplabv1_resnet38 (which needs SEG_FLAGS="--initial FILE"),
#              or none to stop after the pseudo labels
#   SEED       of all chance (15); SEEDS="1 2 3" runs all of them, and ends with a table of means
#   ABLATION   1 trains the classifier without GSC too, for the figures of CAM and of CAM with IPE
#   DOCTOR     0 starts without python -m tool.doctor, which looks at everything first
#   TRAIN_FLAGS, CAM_FLAGS, EVAL_FLAGS, CAM2IR_FLAGS, IRN_FLAGS, LABEL_FLAGS, SCORE_FLAGS,
#   SEG_FLAGS, INFER_FLAGS
#              more flags of 1.1, 1.2, 1.3, 2.1, 2.2, 2.3, 2.4, 3.1, 3.2; see --help of each program
# Relative paths in *_ROOT and SESSION count from where you are, those in *_FLAGS from this folder. The
# words of *_FLAGS may be quoted, as in TRAIN_FLAGS="--pretrained '/my weights/resnet50.pth'".
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "$0")"
source tool/setup.sh

from_caller VOC_ROOT SBD_ROOT SESSION
VOC_ROOT=${VOC_ROOT:-../PascalVOC2012/VOCdevkit/VOC2012}
SESSION=${SESSION:-exp}
each_seed
REFINE=${REFINE:-irn}
ALL=(--dataset voc --dataset_root "$VOC_ROOT")
LEARNED=trainaug JUDGED=train TESTED=val
source tool/pipeline.sh

step "0    check the pictures, find or make the list trainaug" prepare \
    "$PYTHON" -m data.voc --dataset_root "$VOC_ROOT" ${SBD_ROOT:+--sbd_root "$SBD_ROOT"}
run_steps
