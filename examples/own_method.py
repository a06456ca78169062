"""A method of one's own that changes one idea of SIPE: maps are explored twice.

SIPE finds the seeds of a class by its CAM. Here the IS-CAM that they lead to takes the place of the
CAM, and is explored once more; background, whose map is as good as the others by then, counts
whole in both rounds, and not half. The network learns as SIPE does.

    FLAGS="--dataset demo --session_name demo_own --network examples.own_method"
    python train_resnet50_SIPE.py $FLAGS --batch_size 8 --max_epochs 7 --lr 0.02 \\
        --crop_size 192 --resize_min 160 --resize_max 224 --val_freq 0 --seed 1
    python make_cam.py $FLAGS --scales 1.0 1.5
    python eval_cam.py --dataset demo --session_name demo_own
"""

from torch import Tensor

from net import resnet50_SIPE as sipe

ROUNDS = 2
BACKGROUND_WEIGHT = 1.0


class Net(sipe.Net):
    """SIPE but for one step of inference."""

    def explore(
        self, cam: Tensor, mask: Tensor, seed_feature: Tensor, feature: Tensor
    ) -> dict[str, Tensor]:
        """Return seeds, probs, prototypes and IS_cam, see :meth:`net.resnet50_SIPE.Net.explore`."""
        if self.training:
            return super().explore(cam, mask, seed_feature, feature)
        for _ in range(ROUNDS):
            seeds, probs = sipe.get_seed(cam, mask, seed_feature, BACKGROUND_WEIGHT)
            prototypes = sipe.get_prototype(seeds, feature)
            is_cam = sipe.reactivate(prototypes, feature)
            cam = is_cam / (is_cam.amax((2, 3), keepdim=True) + sipe.CAM_EPS)
        return {"seeds": seeds, "probs": probs, "prototypes": prototypes, "IS_cam": is_cam}
