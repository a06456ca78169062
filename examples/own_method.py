"""A method of one's own that changes one idea of SIPE: maps are explored twice.

SIPE finds the seeds of a class by its CAM. Here the IS-CAM that they lead to takes the place of the
CAM, and is explored once more. The network learns as SIPE does. Background, whose map is as good as
the others by then, counts whole in both rounds, and not half.

    FLAGS="--dataset demo --session_name demo_own --network examples.own_method"
    python train_resnet50_SIPE.py $FLAGS --batch_size 8 --max_epochs 7 --lr 0.02 \\
        --crop_size 192 --resize_min 160 --resize_max 224 --val_freq 0 --seed 1
    python make_cam.py $FLAGS --scales 1.0 1.5 --background_weight 1
    python eval_cam.py --dataset demo --session_name demo_own
"""

from torch import Tensor

from net import resnet50_SIPE as sipe

ROUNDS = 2


class Net(sipe.Net):
    """SIPE but for one step of inference."""

    def explore(
        self, cam: Tensor, mask: Tensor, seed_feature: Tensor, feature: Tensor
    ) -> dict[str, Tensor]:
        """Return seeds, probs, prototypes and IS_cam, see :meth:`net.resnet50_SIPE.Net.explore`."""
        found = super().explore(cam, mask, seed_feature, feature)
        if self.training:
            return found
        for _ in range(ROUNDS - 1):
            is_cam = found["IS_cam"]
            cam = is_cam / (is_cam.amax((2, 3), keepdim=True) + sipe.CAM_EPS)
            found = super().explore(cam, mask, seed_feature, feature)
        return found
