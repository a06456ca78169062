# shellcheck shell=bash
# Sourced by run_voc.sh, run_coco.sh and run_folder.sh, after tool/setup.sh: the steps that follow the
# preparation. They are the same for every dataset; a script sets
#   ALL                       flags of every program: --dataset, --dataset_root
#   LEARNED, JUDGED           names of the lists to learn from and to measure on, for the titles;
#                             JUDGED is empty where there are no masks
#   TESTED                    that of the list to segment, of pictures that no step learns from
#   SEG_JUDGED                the same, or empty where it has no masks
#   SESSION, REFINE           see the scripts, as for the *_FLAGS, DEVICE, NUM_WORKERS, NPROC, LAUNCH
#   choose_settings           a function, if the *_FLAGS and the lists depend on the pictures
# and calls `run_steps`.

case $REFINE in
    irn | crf) ;;
    *) echo "error: REFINE is '$REFINE'; it can be irn or crf" >&2; exit 2 ;;
esac
case ${SEG_MODEL:=deeplabv2_resnet101} in
    deeplabv2_resnet101 | deeplabv1_resnet38 | none) ;;
    *)
        echo "error: SEG_MODEL is '$SEG_MODEL'; it can be deeplabv2_resnet101, deeplabv1_resnet38" \
            "or none" >&2
        exit 2
        ;;
esac
DOCTOR=${DOCTOR:-1}
for setting in DOCTOR ABLATION DOWNLOAD; do # a word that says neither is found before anything runs
    is_on "$setting" || true
done
FETCH=() # for the preparation
# shellcheck disable=SC2034 # the scripts use it
if is_on DOWNLOAD; then FETCH=(--download); fi
case ${NPROC:=1} in
    *[!0-9]* | 0* | ??????*)
        echo "error: NPROC is '$NPROC'; it is a number of processes, from 1 on" >&2
        exit 2
        ;;
esac
case ${NUM_WORKERS:=} in
    *[!0-9]*) echo "error: NUM_WORKERS is '$NUM_WORKERS'; it is a number, from 0 on" >&2; exit 2 ;;
esac
for format in ${EXPORT:=}; do
    case $format in
        areas | coco | cvat | labelme | voc | yolo) ;;
        *)
            echo "error: EXPORT is '$EXPORT'; it is some of areas, coco, cvat, labelme, voc and yolo," \
                "with spaces between" >&2
            exit 2
            ;;
    esac
done
if declare -F choose_settings > /dev/null; then choose_settings; fi
# Quotes that do not close are found before anything runs.
case ${SEED:=} in
    *[!0-9]*) echo "error: SEED is '$SEED'; it is a number, from 0 on" >&2; exit 2 ;;
    "") ;;
    *)
        TRAIN_FLAGS="--seed $SEED ${TRAIN_FLAGS:-}" IRN_FLAGS="--seed $SEED ${IRN_FLAGS:-}"
        SEG_FLAGS="--seed $SEED ${SEG_FLAGS:-}"
        ;;
esac
words TRAIN_FLAGS TRAIN
words CAM_FLAGS CAM
words EVAL_FLAGS EVAL
words CAM2IR_FLAGS CAM2IR
words IRN_FLAGS IRN
words LABEL_FLAGS LABEL
words SCORE_FLAGS SCORE
words SEG_FLAGS SEG
words INFER_FLAGS INFER
words LAUNCH LAUNCHER

DATASET=("${ALL[@]}")
ALL+=(--session_name "$SESSION" --device "${DEVICE:-auto}")
[ -z "$NUM_WORKERS" ] || ALL+=(--num_workers "$NUM_WORKERS")
if [ ${#LAUNCHER[@]} -eq 0 ]; then
    LAUNCHER=("$PYTHON")
    if [ "$NPROC" -gt 1 ]; then
        cores=$(getconf _NPROCESSORS_ONLN) # without this, torchrun makes it 1 and says so at length
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > NPROC ? cores / NPROC : 1))}
        LAUNCHER+=(-m tool.launch --standalone "--nproc_per_node=$NPROC")
    fi
fi
make_session

alone() { # alone TITLE NAME PROGRAM FLAGS...: a step that one process does
    step "$1" "$2" "$PYTHON" "$3.py" "${ALL[@]}" "${@:4}"
}

judge() { # judge TITLE NAME PROGRAM FLAGS...: a step that needs the masks of $JUDGED
    [ -z "$JUDGED" ] || alone "$@"
}

shared() { # shared TITLE PROGRAM FLAGS...: a step that $NPROC processes share
    step "$1" "$2" "${LAUNCHER[@]}" "$2.py" "${ALL[@]}" "${@:3}"
}

take() { # take "NAMES" FLAGS...: appends flags of these names, with their values, to `flags`
    local names=" $1 " word open=
    for word in "${@:2}"; do
        if [ "$open" ]; then
            flags+=("$word")
            open=
        elif [[ $names = *" ${word%%=*} "* ]]; then
            flags+=("$word")
            [[ $word = *=* ]] || open=1
        fi
    done
}

examine() { # looks at everything before hours of computing; some flags of trainings matter to it
    local flags=(--model "$SEG_MODEL" --processes "$NPROC")
    if [ "$REFINE" = irn ]; then
        take "--irn_batch_size" "${IRN[@]}"
    else
        flags+=(--irn_batch_size 0)
    fi
    take "--seg_batch_size --accumulate" "${SEG[@]/#--batch_size/--seg_batch_size}"
    take "--pretrained --train_list --batch_size --crop_size" "${TRAIN[@]}"
    echo
    echo "== 0.1  look at everything (DOCTOR=0 leaves this out)"
    "$PYTHON" -m tool.doctor "${ALL[@]}" "${flags[@]}" || exit 1
}

run_steps() {
    if is_on DOCTOR; then examine; fi
    shared "1.1  train SIPE on $LEARNED -> $SESSION/ckpt/final.pth" train_resnet50_SIPE "${TRAIN[@]}"
    shared "1.2  localization maps of $LEARNED -> $SESSION/npy" make_cam "${CAM[@]}"
    judge "1.3  mIoU of the maps on $JUDGED -> $SESSION/eval_cam.json" eval_cam eval_cam "${EVAL[@]}"
    if is_on ABLATION && [ "$JUDGED" ]; then ablate; fi
    if [ "$REFINE" = irn ]; then
        shared "2.1  confident areas -> $SESSION/ir_label" cam2ir "${CAM2IR[@]}"
        shared "2.2  train IRN on them -> $SESSION/ckpt/irn.pth" train_irn "${IRN[@]}"
    fi
    shared "2.3  pseudo labels of $LEARNED, by $REFINE -> $SESSION/pseudo_label" \
        make_seg_labels --refine "$REFINE" "${LABEL[@]}"
    judge "2.4  mIoU of the labels on $JUDGED -> $SESSION/eval_pseudo_label.json" \
        eval_seg_labels eval_seg_labels "${SCORE[@]}"
    hand_over
    [ "$SEG_MODEL" != none ] || { tell; return; }
    local folder=$SESSION/seg_$SEG_MODEL
    shared "3.1  train $SEG_MODEL on the labels -> $SESSION/ckpt/seg_$SEG_MODEL.pth" \
        train_seg --model "$SEG_MODEL" "${SEG[@]}"
    shared "3.2  segment $TESTED -> $folder" infer_seg --model "$SEG_MODEL" "${INFER[@]}"
    [ -z "${SEG_JUDGED-$TESTED}" ] || alone \
        "3.3  mIoU of the segmentation on $TESTED -> $SESSION/eval_seg_$SEG_MODEL.json" eval_seg \
        eval_seg_labels --label_dir "$folder" --eval_list "$TESTED"
    tell
}

hand_over() { # the pseudo labels in the formats of $EXPORT; a file that is there may be corrected
    local format out
    for format in $EXPORT; do
        out=$SESSION/labels_$format
        case $format in
            areas) out+=.csv ;;
            coco) out+=.json ;;
            cvat) out+=.zip ;;
        esac
        if [ -e "$out" ]; then
            echo
            echo "== 2.5  $out is there and stays; move it away to have it made again"
        else
            step "2.5  labels for $format -> $out" "export_$format" "$PYTHON" export_labels.py \
                "${DATASET[@]}" --label_dir "$SESSION/pseudo_label" \
                --format "$format" --out "$out"
        fi
    done
}

ablate() { # the classifier without GSC: its CAM, and its IS-CAM, which is CAM with IPE
    local plain=$SESSION/cam_only
    shared "1.1  the same classifier without GSC -> $plain/ckpt/final.pth" train_resnet50_SIPE \
        "${TRAIN[@]}" --session_name "$plain" --gsc_weight 0
    shared "1.2  its CAM and IS-CAM on $JUDGED -> $plain/npy" make_cam "${CAM[@]}" \
        --session_name "$plain" --infer_list "$JUDGED" --save_cam
    alone "1.3  mIoU of both -> $plain/eval_cam.json" eval_plain_cam eval_cam "${EVAL[@]}" \
        --session_name "$plain"
}

tell() { # a page of everything, a summary, and a model card
    echo
    "$PYTHON" -m tool.report "$SESSION" "${ALL[@]:0:4}"
}
