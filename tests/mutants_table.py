"""The faults of :mod:`tests.mutants`, by file: a piece, what stands in its place, and tests.

A piece occurs once in its file. Tests are NAME of tests/test_NAME.py and pytest's ``-k``.
"""

FAULTS = {
    "train_resnet50_SIPE.py": [
        ('args.pretrained or "imagenet"', "args.pretrained", "backbones unless_a_file"),
        ("    choose(net,", "    print(net,", "programs weight_of_background"),
        ("args.val_list or dataset.eval_list", "dataset.train_list", "training not_named"),
        ("partial(learning_rate, args.lr)", "partial(learning_rate, 0.1)", "training every_update"),
        ("(terms, args.gsc_weight", "(terms, 1", "programs gsc_weight"),
        ('"GSC": gsc_weight, **others}', '"GSC": gsc_weight}', "any_network weighed"),
        (" or args.network != cli.NETWORK", "", "any_network every_program"),
        (" * share).backward()", ").backward()", "distributed sipe_weights"),
        ("net.prepare(window, box)", "net.prepare(window)", "training windows_and_masks"),
        ("return keys[maps.argmax(0)]", "return maps.argmax(0)", "training class_ids"),
        ("    net.train()\n", "", "training validation_evaluates"),
        ("    net.eval()\n", "", "training validation_evaluates"),
        (
            "distributed.total(counts)",
            "counts",
            "distributed sipe_weights",
        ),
        ("    check_class_ids(list(", "    print(list(", "mask_values stop"),
    ],
    "hubconf.py": [("not file.samefile(found.origin)", "False", "hub already_another")],
    "export_onnx.py": [
        ("img, img.flip(3)", "img, img", "onnx classifier"),
        ("labels, (1, 0), value=1", "labels, (1, 0)", "onnx users_own"),
        ("(433, 449)", "(65, 65)", "onnx segmentation"),
    ],
    "train_irn.py": [
        (
            "(args.irn_learning_rate, args.irn_weight_decay)",
            "(args.irn_learning_rate, 1e-4)",
            "training flags_reach",
        ),
        (
            "(learning_rate, args.irn_learning_rate)",
            "(learning_rate, 0.1)",
            "training every_update",
        ),
        ("sums[0] * distributed.world_size()", "sums[0]", "distributed irn_weights"),
        ("distributed.total(sums[1])", "sums[1]", "distributed irn_weights"),
        ("    net.eval()\n", "", "training mean_displacement"),
        ("sums[:2] / sums[2]", "sums[:2]", "refinement mean_displacement"),
        (", edge_only=args.edge_only)", ")", "refinement edge_only"),
    ],
    "train_seg.py": [
        (
            "recipe, given = MODELS[args.model].training",
            'recipe, given = MODELS["deeplabv2_resnet101"].training',
            "seg presets",
        ),
        ("args.weight_decay, args.head_lr)", "args.weight_decay)", "training flags_reach"),
        ("every=args.lr_every", "every=1", "training every_update"),
        (
            "getattr(args, name) for name in",
            "getattr(recipe, name) for name in",
            "training flags_reach",
        ),
        ("sums * world", "sums", "seg number_of_processes"),
        ("distributed.total(counts)", "counts", "seg number_of_processes"),
        (
            "distributed.total(counts)) / accumulate",
            "distributed.total(counts))",
            "seg plain_formula",
        ),
        ("accumulate // passes", "1", "seg plain_formula"),
        ("allowing == world", "True", "seg computed_together"),
        ('args.model != "deeplabv2_resnet101" or', "False or", "seg computed_together"),
        ("        net.freeze_statistics()", "        pass", "seg number_of_processes"),
        ("    net.share_batch(", "    print(", "seg number_of_processes"),
        ("blocks=args.blocks", "blocks=None", "seg labels_to_miou"),
    ],
    "data/training.py": [
        ("torch.manual_seed(args.seed)", "torch.manual_seed(15)", "training flags_reach"),
        (
            "args.train_list or self.dataset.train_list",
            "self.dataset.eval_list",
            "training not_named",
        ),
        (
            "digest_of(self.session.path, pictures.label_files)",
            '""',
            "training something_else and label_file",
        ),
        (
            "[self.dataset.image_path(i) for i in pictures.ids]",
            "()",
            "training something_else and picture",
        ),
        (
            "text_digest(*pictures.ids, labels)",
            "text_digest(*pictures.ids)",
            "training something_else and label",
        ),
        (
            "        checkpoint.check_classes(begun",
            "        (lambda *_, **more: None)(begun",
            "training something_else and classes",
        ),
        (
            "        checkpoint.check_begun(begun",
            "        (lambda *_, **more: None)(begun",
            "training something_else",
        ),
        ("            if changed:", "            if False:", "training meanwhile"),
        ('claim(lock, f"training {self.final}")', 'open(lock, "ab")', "training second_start"),
        ('self.rows = self.begun["step"]', 'self.rows = self.begun["step"] - 1', "restart sipe"),
        ("together.mean(0)", "together[-1]", "training curves_have"),
        (
            "        check_finite(dict(self.net",
            "        print(dict(self.net",
            "training last_update",
        ),
        ("            check_finite(dict(zip(", "            print(dict(zip(", "seg nan_loss"),
        (
            '"" if np.isnan(value) else value',
            "0 if np.isnan(value) else value",
            "training empty_cell",
        ),
        (
            "set_learning_rate(self.optimizer, self.rate(step, self.total))",
            "pass",
            "training every_update",
        ),
        ('checkpoint.load_weights(net, self.begun["net"])', "pass", "seg continued"),
        ('load_optimizer(self.optimizer, self.begun["optimizer"])', "pass", "seg continued"),
        ("first_change(noted, now)", "first_change(noted, {})", "training something_else"),
        ("self.optimizer.zero_grad()", "pass", "restart sipe"),
        ("(args.seed << 32) + step", "(args.seed << 32)", "training own_seed"),
        ("torch.tensor(len(asked))", "torch.tensor(0)", "stop asked_to_end"),
        ("distributed.total(torch.tensor(len(asked)))", "asked", "stop one_process"),
        ('"step": self.step + 1, "curves"', '"step": self.step, "curves"', "stop asked_to_end"),
    ],
    "tool/optimizer.py": [
        ("POWER = 0.9", "POWER = 1.0", "training polynomial"),
        ('= lr * group["lr_scale"]', "= lr", "training every_update"),
        ('group.get("lr", lr) / lr if lr else 1', "1", "any_network plain_groups"),
    ],
    "make_cam.py": [
        ("setattr(args, name, choose(net", "print(choose(net", "programs flags_of_the_maps"),
        ("dataset, args.scales", "dataset, (1.0, 0.5, 1.5, 2.0)", "programs flags_of_the_maps"),
        ('"digest": content.digest', '"digest": ""', "outputs was_replaced"),
        ("    checkpoint.check_classes(content", "    print(content", "outputs other_classes"),
        ("[str(row.nonzero()[0].tolist()) for row", '["" for row', "outputs corrected_label"),
    ],
    "cam2ir.py": [
        ("BACKGROUND_SHARE = 0.5", "BACKGROUND_SHARE = 1.0", "refinement by_the_crf"),
        ('"t": args.crf_iterations', '"t": 10', "refinement by_the_crf"),
        ('"gt_prob": args.gt_prob', '"gt_prob": 0.7', "refinement by_the_crf"),
    ],
    "make_seg_labels.py": [
        ('"exp_times": args.exp_times', '"exp_times": 8', "refinement walk_label"),
        ('"t": args.crf_iterations', '"t": 10', "refinement by_the_crf"),
        ('"gt_prob": args.gt_prob', '"gt_prob": 0.7', "refinement by_the_crf"),
        ("keys[index.cpu().numpy()]", "index.cpu().numpy()", "refinement walk_label"),
        ("torch.stack([img, img.flip(2)])", "torch.stack([img, img])", "refinement walk_label"),
        ("**how), content.digest)", '**how), "")', "outputs was_replaced"),
    ],
    "infer_seg.py": [
        ('"infer_seg", "test_list"', '"infer_seg"', "outputs list_of_its_own"),
        ('"digest": content.digest', '"digest": ""', "outputs was_replaced"),
        (
            "getattr(args, name) for name",
            "getattr(MODELS[args.model].test, name) for name",
            "seg library",
        ),
        ("VIEWS[model]", 'VIEWS["deeplabv2_resnet101"]', "seg library"),
        ("    checkpoint.check_classes(content", "    print(content", "seg other_classes"),
    ],
    "data/inference.py": [
        ("[img, img.flip(3)]", "[img, img]", "maps of_the_network"),
        ("    choose(net,", "    print(net,", "programs weight_of_background"),
        ("cam[kept[1:]]", "cam[kept[1:] - 1]", "maps of_the_network"),
        ("(len(how.scales) * len(turns))", "len(how.scales)", "seg library"),
        (
            "to_device((labels, np.concatenate(present)), pictures[0].device)",
            "(torch.from_numpy(one).to(pictures[0].device) for one in (labels, present[0]))",
            "gpu waited_for",
        ),
        ("            how.crf_iterations", "            10", "seg library"),
        ("ABSENT = 1e-4", "ABSENT = 0.5", "seg nowhere_likely"),
    ],
    "data/predictor.py": [
        ("x * columns // width", "x", "predict figure_has"),
        ("logits[~label] = -math.inf", "pass", "predict absent"),
        ("choose(self.net,", "print(self.net,", "programs weight_of_background"),
        ("scores > self.threshold", "scores > 0.5", "predict guessed"),
        ("np.array(reduce(image, self.max_pixels))", "np.array(image)", "predict large"),
        ("min(1, self.longest / max(image.size))", "1", "predict as_in_training"),
        ("fused, keys[index]", "fused, index", "predict mask_holds"),
        ("refined.by_crf = True", "pass", "predict explanation_holds"),
        ("torch.cat([img, img.flip(3)])", "torch.cat([img, img])", "predict explanation_holds"),
        (
            '[item["prediction"] for item in items]',
            '[item["prediction"] for item in batch]',
            "predict one_size",
        ),
        ("(array.float() * 255).round()", "(array.float() * 254).round()", "predict may_be"),
        (
            "rgb_on_white(ImageOps.exif_transpose(picture))",
            "rgb_on_white(picture)",
            "predict turned",
        ),
        ("tuple(scales or SCALES)", "SCALES", "predict as_in_training"),
    ],
    "data/prediction.py": [
        ("mask == key", "self.mask == key", "predict boxes"),
        ("y * rows // height", "y * columns // width", "predict pixels_position"),
    ],
    "predict.py": [
        ("**how)", '**{**how, "threshold": 0.5})', "predict decide_what"),
        ("{predictor.digest} ", "", "predict decide_what"),
    ],
    "data/picture_loop.py": [
        (
            "args.infer_list or getattr(self.dataset, usual_list)",
            "self.dataset.eval_list",
            "outputs list_of_its_own",
        ),
        ('key=lambda item: item["size"]', "key=lambda item: 0", "programs in_batches"),
        (
            "note_of(self.session.path, self.dataset.all_names, **wanted)",
            "{}",
            "outputs was_replaced",
        ),
        (
            "npy, args.allow_pickle, args.max_pixels",
            "npy, args.allow_pickle, 1e9",
            "refinement large",
        ),
        ("[dataset.image_path(image_id) for", '["" for', "outputs corrected_label"),
    ],
    "tool/maps.py": [
        ("total.amax((1, 2), keepdim=True)", "total.amax()", "maps"),
        ("or keys[-1] >= num_classes", "", "maps classes_are"),
    ],
    "tool/record.py": [
        ("        if taken:", "        if False:", "record name_of"),
        ("if found.get(i, noted[i]) != noted[i]", "if False", "record changed"),
        ("known.get(key, [None])[0] != stamp", "key not in known", "record digests"),
        ("names != list(class_names)", "set(names) != set(class_names)", "record names"),
        ("first_change(before, settings) if staying else None", "None", "record other_settings"),
    ],
    "tool/writer.py": [
        ('read_note(folder).get("program") != program', "False", "record another_program"),
        ('claim(folder / ".lock", f"writing {folder}")', 'open(os.devnull, "ab")', "writer claim"),
        ("file_digest(path) not in made.get(path.name, [])", "False", "writer somebody_else"),
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", "writer claim"),
        ("        write_json(path.with_name(LEDGER), made)", "        pass", "writer our_own"),
    ],
    "tool/checkpoint.py": [
        (
            '        check_weights(content["net"])',
            "        pass",
            "weight_files none_of_ours or continue",
        ),
        ('{**BEGUN, "program": {program}}', "{**BEGUN}", "weight_files none_of_ours"),
        ("hashlib.sha256(packed)", 'hashlib.sha256(b"")', "weight_files digest"),
        ("weights_only=True", "weights_only=False", "checkpoint executed"),
        ("torch.save(_on_cpu(content), buffer)", "torch.save(dict(content), buffer)", "gpu no_gpu"),
        ("or value.shape != place.shape", "", "checkpoint do_not_fit"),
        (
            "missing = [name for name in own if name not in given and",
            "missing = [name for name in own if False and",
            "deeplabs first_weights",
        ),
    ],
    "eval_cam.py": [
        ('keys[maps["IS_CAM"].argmax(0)]', 'maps["IS_CAM"].argmax(0)', "evaluate plain_loop"),
        ("((1, 0), (0, 0))", "((0, 1), (0, 0))", "programs sweep"),
    ],
    "eval_seg_labels.py": [
        ("    check_label(path", "    print(path", "evaluate beyond"),
        ("counts[:, -1]", "counts[:, 0]", "evaluate unsure"),
    ],
    "data/evaluate.py": [
        ("args.eval_list or dataset.eval_list", "dataset.train_list", "outputs list_of_its_own"),
        (
            "), args.gt_path)",
            "))",
            "outputs every_flag and eval_cam",
        ),
        ('value.replace("nan", "")', 'value.replace("nan", "0")', "evaluate no_zero"),
        ("if digests != {", "if not {", "evaluate judged"),
        ("*iou_of(counts))]", "*iou_of(total))]", "evaluate plain_loop"),
        (
            "    settings = settings_of(folder, names)",
            "    settings = {}",
            "programs labels_to_miou",
        ),
    ],
    "tool/metrics.py": [
        ("truth != UNSURE", "truth < UNSURE - 1", "metrics"),
    ],
    "log/figures.py": [
        (
            "if value is not None]\n        return",
            "if True]\n        return",
            "report some_classes",
        ),
        (
            "other = differences(of, found)",
            'other = ""',
            "report published_figures",
        ),
        (
            'if settings.get("gsc_weight") != 0',
            'if settings.get("gsc_weight") is None',
            "report plain_cam",
        ),
    ],
    "log/report/seeds.py": [
        ("ddof=1", "ddof=0", "report seeds_give"),
        ("if value == theirs.get(what)", "if False", "report other_seed"),
        ("        if words:", "        if False:", "report put_together"),
    ],
    "tool/onnx_file.py": [
        ("if difference > ROUNDING", "if difference < 0", "onnx cannot_be"),
        ('AXES = {0: "batch", 2', "AXES = {2", "onnx classifier"),
        ('2: "height", ', "", "onnx classifier"),
        ("cubic_coeff_a_f=-0.5", "cubic_coeff_a_f=-0.75", "onnx classifier"),
    ],
    "data/folder/settings.py": [
        ("long_side * 3 // 4", "long_side", "settings suit"),
        ("4 * long_side**2", "long_side**2", "settings suit"),
        ("min(side, LARGEST[device])", "side", "settings suit"),
        ("(pictures // batch * batch)", "pictures", "settings suit"),
        ("(labels == labels[0]).all()", "False", "settings nothing_is_learnt"),
    ],
    "tool/stop.py": [
        ("parent.is_alive() and os.getppid() == started_by and", "", "stop killed"),
        ("sent.si_pid == parent", "True", "stop asked_to_end"),
    ],
    "data/loaders.py": [
        ("(read_mask(path) == UNSURE)", "(read_mask(path) > UNSURE)", "training teach_nothing"),
        (
            "image = reduce(image, self.max_pixels)",
            "image = reduce(image, math.inf)",
            "refinement as_they",
        ),
        ("worker_init_fn=follow_parent, ", "", "stop killed"),
        ("[self.seed, epoch, index]", "[self.seed, index]", "loaders functions_of"),
        ("torch.randint(LARGEST, ()).item()", "0", "loaders plain_loader"),
        (
            '([image_id])[0], "pictures"',
            '([image_id])[0] * 0, "pictures"',
            "loaders scaled_pictures",
        ),
        ("        event.synchronize()\n", "", "gpu waited_for"),
        ("tensors = map(Tensor.pin_memory, tensors)", "pass", "gpu no_step"),
        ('if device.type != "cuda":', "if True:", "loaders thread"),
        ("rng.integers(-how.hsv_shift", "rng.integers(0", "loaders shifts"),
        ("        check_label(path", "        print(path", "seg labels_that_do_not_fit"),
        ("rows[:, distributed.rows(self.batch_size)]", "rows", "distributed sipe_weights"),
        (
            "settings_of(self.folder, self.dataset.all_names)",
            "len(self.folder.name)",
            "outputs other_classes and train_seg",
        ),
    ],
    "data/transforms.py": [
        (
            "resize(image.size, Image.Resampling.NEAREST)",
            "resize(image.size, Image.Resampling.BILINEAR)",
            "training without_new_values",
        ),
        ("cv2.INTER_NEAREST", "cv2.INTER_LINEAR", "training without_new_values"),
        ("label[:, ::turn], offsets", "label, offsets", "refinement move_together"),
        ("fill=UNSURE", "fill=0", "refinement move_together"),
    ],
    "data/voc.py": [
        ('train_list = "trainaug"', 'train_list = "train"', "voc"),
    ],
    "data/coco/annotations.py": [
        (
            "enumerate(sorted(names), 1)",
            "enumerate(sorted(names))",
            "coco labels_and_masks",
        ),
    ],
    "data/coco/masks.py": [
        ("if len(counts) > 2 else", "if counts[1:] else", "export labels_come"),
        (
            'UNSURE if region.is_crowd and crowd == "ignore"',
            '0 if region.is_crowd and crowd == "ignore"',
            "coco crowd",
        ),
    ],
    "data/base.py": [
        ("row[columns[name]] = 1", "row[columns[name] - 1] = 1", "folder what_the_folder_says"),
        ("if not labels.any():", "if not labels.size:", "label_files never_shown"),
    ],
    "tool/picture_files.py": [
        ("/ self.white * 255", "/ 65535 * 255", "hostile_pictures by_their_own"),
        ("values[..., 2::-1]", "values[..., :3]", "hostile_pictures 16_bit_png"),
        ("            del self.orientation ", "            pass ", "hostile_pictures upright"),
        ("tiff.pages[place]", "tiff.pages[0]", "hostile_pictures bands"),
    ],
    "data/folder/sources.py": [
        ("del categories[ROOT]", "pass", "label_files other_tools_write"),
        ("region not in NOTHING or", "True or", "label_files other_tools_write"),
    ],
    "data/folder/tables.py": [
        ("dict.fromkeys(VOID, UNSURE)", "dict.fromkeys(VOID, 0)", "folder_labels coloured"),
    ],
    "data/lists.py": [
        ("            if path.name in own:", "            if False:", "predict left_out")
    ],
    "data/label_formats.py": [
        ('"category_id": key', '"category_id": key - 1', "export labels_come"),
        ("key not in (0, UNSURE)", "key != 0", "export labels_come"),
        ("* label.shape[::-1] - 0.5", "* label.shape[::-1]", "export labels_come"),
        ("if codes and not any(codes)", "if not codes", "export named"),
        ("np.zeros(size_of(dataset, name)", "np.ones(size_of(dataset, name)", "export colours_of"),
        ("{names[0]: 0, **pixels}", "pixels", "export areas"),
    ],
    "export_labels.py": [
        ("args.list or dataset.train_list", "dataset.train_list", "export parts_of"),
        ("        check_label(path", "        print(path", "export failures_leave"),
        ("np.count_nonzero(label == UNSURE)", "1", "export labels_come"),
    ],
    "tool/cli.py": [
        ('enabled=amp == "bf16"', "enabled=False", "session autocast"),
        ("0 < cards < processes", "False", "session of_its_own"),
        (
            'getattr(net, "backbone", getattr(net, "base", net)).compile()',
            "pass",
            "compile programs_compile",
        ),
        (
            "    torch.backends.cuda.matmul.allow_tf32 = False",
            "    pass",
            "gpu products",
        ),
    ],
    "net/resnet50_SIPE.py": [
        ("x = side(x.detach()).float()", "x = side(x).float()", "sipe do_not_teach"),
        ("built.strides[-2], built", "16, built", "backbones maps_follow"),
        ("last = resized(stages[-1], size)", "last = stages[-1]", "backbones step_1"),
        ("(img)[0].mean((2, 3))", "(img)[0].amax((2, 3))", "predict scores"),
        ("seed_feature, self.background_weight)", "seed_feature)", "sipe other_readings"),
        ('"present": cam * labels', '"present": cam', "sipe other_readings"),
        ("x[::2] + x[1::2].flip(3)", "x[::2] + x[1::2]", "sipe parity_inference"),
    ],
    "net/irn_loss.py": [
        ("*affinity, dp_fg, dp_bg]", "*affinity, dp_bg, dp_fg]", "irn_loss against"),
    ],
    "net/resnet50_irn.py": [
        ("x if self.training else", "x if True else", "irn mean_shift"),
        ("frozen_stages=4", "frozen_stages=3", "irn only_the_branches"),
    ],
    "net/segmentation.py": [
        ("2 * head_lr, 0.0", "head_lr, 0.0", "deeplabs convolutions"),
        ("@lru_cache(maxsize=256)\n", "", "gpu no_step"),
        ("(labels != UNSURE).sum()", "(labels != 0).sum()", "deeplabv2 loss_is"),
    ],
    "net/deeplabv2.py": [
        (
            "self.resize(smaller, logits.shape[2:])",
            "self.resize(smaller, logits.shape[2:]).detach()",
            "deeplabv2 fused_maximum",
        ),
        ("(outputs).requires_grad_(False)", "(outputs)", "deeplabs convolutions"),
        ("named[CLASSIFIER] / len(HEAD_DILATIONS)", "named[CLASSIFIER]", "deeplabv2 classifier"),
        (
            "16: ((1, 2, 2, 1), (1, 1, 1, 1))",
            "16: ((1, 2, 2, 1), (1, 1, 1, 2))",
            "deeplabv2 classifier",
        ),
    ],
    "net/deeplabv1_resnet38.py": [
        ("kept[self.rows] / (1 - self.p)", "kept[self.rows]", "deeplabv1 dropout"),
    ],
    "net/recipes.py": [
        ("bilateral_sxy=67.0", "bilateral_sxy=50.0", "seg presets"),
        ("self.batch_size * self.accumulate", "self.batch_size", "seg for_every_process"),
        ("or any(given)", "", "seg for_every_process"),
    ],
    "tool/crf.py": [
        ("67, 3, 4)", "67, 3, 5)", "crf"),
    ],
    "tool/lattice.py": [
        ("if features.is_cuda:", "if False:", "lattice sky"),
        ("cells = add_up(every, cells, self.pieces)", "pass", "lattice sky"),
    ],
    "benchmarks/measure.py": [
        (
            "    _held.before = _most_bytes()\n    _held.seconds = []\n    _held.call = make()\n",
            "    _held.seconds = []\n    _held.call = make()\n    _held.before = _most_bytes()\n",
            "benchmarks its_beginning",
        ),
        (".get(left)", ".get()", "benchmarks fit_into"),
    ],
    "benchmarks/steps.py": [
        (
            "    net.eval()\n",
            "    torch.backends.cudnn.benchmark = True\n",
            "benchmarks trainings_alone",
        ),
        ("int(plain * PICTURE[0])", "0", "benchmarks sky"),
    ],
    "tool/walk.py": [
        ("= 5, 10, 8", "= 5, 8, 8", "walk parity_pseudo"),
        (
            "scores.amax().clamp_min",
            "scores.amax((1, 2), keepdim=True).clamp_min",
            "walk parity_pseudo",
        ),
    ],
    "net/backbones.py": [
        ("FROZEN = 2  #", "FROZEN = 3  #", "sipe layer3"),
        ("gradient is None", "True", "backbones second_stage"),
        ("[step - 1 :: step]", "[:: step]", "backbones equal_distances"),
        ("super().train(False)", "super().train(mode)", "backbones stored or chance"),
        ('about["mean"], about', 'about["std"], about', "backbones deviation"),
        ("(cell - width % cell)", "(cell - height % cell)", "backbones any_size"),
        ("names - self.net.state_dict().keys()", "names", "backbones weights"),
    ],
    "net/method.py": [
        ("if noted != name:", "if False:", "any_network one_of_training"),
        ("    setattr(net, name, value)", "    pass", "programs flags_of_the_maps"),
        ("if parameter not in known", "if True", "any_network defaults"),
        ("-(-size // self.stride)", "size // self.stride", "any_network defaults"),
        ("x[1::2].flip(3)) / 2", "x[1::2]) / 2", "any_network defaults"),
        ("mean=self.mean, std=self.std", "mean=self.std, std=self.mean", "any_network defaults"),
        ("labels.repeat_interleave(2, 0)", "labels.repeat(2, 1, 1, 1)", "any_network defaults"),
    ],
    "net/weights.py": [
        ("needed > held or not", "not", "backbones hostile"),
        ("return net.eval()", "return net", "deeplabs trained_networks"),
    ],
    "log/curves.py": [
        ("after < step <= end", "after <= step <= end", "log_compare means"),
    ],
}
