#!/usr/bin/env bash
# SIPE on your own pictures, from a folder to labels; running it again continues it.
#   FOLDER=my_pictures SESSION=exp EXPORT="cvat labelme" bash run_folder.sh
# Settings, as environment variables:
#   FOLDER     the folder, see docs/own_pictures.md; masks are not needed
#   FOLDER_FLAGS  how it is read, for every step: --negative_class, --bands, --value_range
#   SESSION    folder of the results: a name or a path
#   EXPORT     formats for the labels, with spaces between: areas, coco, cvat, labelme, voc, yolo
#   AMP        bf16 or off: how the convolutions compute; bf16 where the machine has it
#   DEVICE     auto, cpu, cuda, cuda:N         NUM_WORKERS   processes that read pictures
#   NPROC      processes that share the work, one a GPU (1); or, for several machines, all of
#   LAUNCH     such as "torchrun --nnodes=2 --nproc_per_node=4 --rdzv_endpoint=host:29500"
#   REFINE     crf, which needs no training, or irn (steps 2.1 to 2.3)
#   SEG_MODEL  deeplabv2_resnet101, deeplabv1_resnet38 (which needs SEG_FLAGS="--initial FILE"),
#              or none to stop after the pseudo labels
#   SEED       of all chance (15); SEEDS="1 2 3" runs all of them, and ends with a table of means
#   ABLATION   1 trains the classifier without GSC too, where there are masks
#   DOCTOR     0 starts without a look at the pictures, the machine and the disk
#   TRAIN_FLAGS, CAM_FLAGS, EVAL_FLAGS, CAM2IR_FLAGS, IRN_FLAGS, LABEL_FLAGS, SCORE_FLAGS,
#   SEG_FLAGS, INFER_FLAGS
#              more flags of 1.1, 1.2, 1.3, 2.1, 2.2, 2.3, 2.4, 3.1, 3.2; see --help of each program
# The flags of the steps suit the number and the size of the pictures; they are printed, and yours stand
# behind them, and count. Relative paths in FOLDER and SESSION count from where you are, those in *_FLAGS
# from this folder. The words of *_FLAGS may be quoted, as in TRAIN_FLAGS="--pretrained '/my w.pth'".
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "$0")"
source tool/setup.sh

from_caller FOLDER SESSION
FOLDER=${FOLDER:-pictures}
SESSION=${SESSION:-exp}
each_seed
REFINE=${REFINE:-crf}
words FOLDER_FLAGS MORE
READ=(--dataset_root "$FOLDER" ${MORE[@]+"${MORE[@]}"}) # empty arrays are unbound in bash 3.2
ALL=(--dataset folder "${READ[@]}")
LEARNED=train

choose_settings() { # those that suit the folder, before the user's own
    local found line name
    if is_on DOCTOR; then
        echo "== 0    look at the folder (DOCTOR=0 leaves this out)"
        "$PYTHON" -m data.folder "${READ[@]}" || exit 1
        echo
    fi
    echo "== 0    settings that suit the folder"
    found=$("$PYTHON" -m data.folder.settings "${ALL[@]}" --session_name "$SESSION" \
        --device "${DEVICE:-auto}" --refine "$REFINE" --model "$SEG_MODEL" ${AMP:+--amp "$AMP"}) || exit 2
    while IFS= read -r line; do
        name=${line%%=*}
        line=${line#*=}
        echo "   $name  $line"
        case $name in
            *_FLAGS) line="$line ${!name:-}" ;;
        esac
        printf -v "$name" '%s' "$line"
    done <<< "$found"
}
source tool/pipeline.sh
run_steps
