#!/usr/bin/env bash
# SIPE on PASCAL VOC 2012, every step in order; running it again continues it.
#   VOC_ROOT=/data/VOCdevkit/VOC2012 SESSION=exp bash run_voc.sh
# Settings, as environment variables:
#   VOC_ROOT   the folder with JPEGImages, SegmentationClass, Annotations, ImageSets
#   SBD_ROOT   SBD's folder, only to make the list trainaug where you have no such list
#   DOWNLOAD   1 fetches what is missing, 3.4 GB
#   PRESET     half: everything at half size, which a processor does overnight; best: the same with
#              the maps and labels that were best there; see docs/voc.md
#   HALF_ROOT  with it: folder for the halved pictures (VOC_ROOT with _half behind)
#   SESSION    folder of the results: a name or a path
#   DEVICE     auto, cpu, cuda, cuda:N         NUM_WORKERS   processes that read pictures
#   NPROC      processes that share the work, one a GPU (1); or, for several machines, all of
#   LAUNCH     such as "torchrun --nnodes=2 --nproc_per_node=4 --rdzv_endpoint=host:29500"
#   REFINE     irn (steps 2.1 to 2.3) or crf, which needs no training
#   SEG_MODEL  deeplabv2_resnet101, deeplabv1_resnet38 (which needs SEG_FLAGS="--initial FILE"),
#              or none to stop after the pseudo labels
#   EXPORT     formats for the pseudo labels, such as "cvat coco"; see docs/export.md
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

from_caller VOC_ROOT SBD_ROOT HALF_ROOT SESSION
VOC_ROOT=${VOC_ROOT:-../PascalVOC2012/VOCdevkit/VOC2012}
SESSION=${SESSION:-exp}
each_seed
REFINE=${REFINE:-irn}
ROOT=$VOC_ROOT

half_preset() { # all lengths are halved; what the user says stands behind, and counts
    local amp=${AMP:-bf16} # off where the processor has no bfloat16
    TRAIN_FLAGS="--crop_size 256 --resize_min 160 --resize_max 320 --amp $amp --val_freq 240 ${TRAIN_FLAGS:-}"
    CAM_FLAGS="--amp $amp ${CAM_FLAGS:-}"
    IRN_FLAGS="--irn_crop_size 256 --edge_only --amp $amp ${IRN_FLAGS:-}"
    LABEL_FLAGS="--irn_crop_size 256 --exp_times 6 --amp $amp ${LABEL_FLAGS:-}"
    local learns="" sees="" # of DeepLab v2; v1 has no short recipe, and sees more scales anyway
    if [ "${SEG_MODEL:-deeplabv2_resnet101}" = deeplabv2_resnet101 ]; then
        learns="--recipe short" sees="--scales 0.75 1.0 1.25 --mirror"
    fi
    SEG_FLAGS="$learns --amp $amp ${SEG_FLAGS:-}"
    INFER_FLAGS="$sees --amp $amp ${INFER_FLAGS:-}"
}

case ${PRESET:=full} in
    full) ;;
    half | best)
        if [ "$PRESET" = best ]; then
            TRAIN_FLAGS="--repeat_rare 0.1 --max_epochs 4 ${TRAIN_FLAGS:-}"
            CAM_FLAGS="--background_weight 0.6 --fit_scale --scales 1.25 1.5 1.75 2.0 2.5 ${CAM_FLAGS:-}"
            CAM_FLAGS="--competitors present $CAM_FLAGS"
            LABEL_FLAGS="--exp_times 4 ${LABEL_FLAGS:-}"
            INFER_FLAGS="--classifier final.pth ${INFER_FLAGS:-}"
        fi
        ROOT=${HALF_ROOT:=${VOC_ROOT%/}_half}
        half_preset
        ;;
    *) echo "error: PRESET is '$PRESET'; it can be full, half or best" >&2; exit 2 ;;
esac
ALL=(--dataset voc --dataset_root "$ROOT")
LEARNED=trainaug JUDGED=train TESTED=val
source tool/pipeline.sh

step "0    check the pictures, find or make the list trainaug" prepare \
    "$PYTHON" -m data.voc --dataset_root "$VOC_ROOT" ${SBD_ROOT:+--sbd_root "$SBD_ROOT"} \
    "${FETCH[@]}" ${HALF_ROOT:+--halve "$HALF_ROOT"} \
    ${NUM_WORKERS:+--num_workers "$NUM_WORKERS"}
run_steps
