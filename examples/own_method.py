"""A method of one's own that changes one idea of SIPE: seeds count by how sure the CAM is of them.

SIPE's prototype of a class is the mean feature of its seeds, each of which counts the same. Here a
seed at position i counts by M_c(i), so that seeds which the structure found where the CAM is low
say less about the class.

    FLAGS="--dataset demo --session_name demo_own --network examples.own_method"
    python train_resnet50_SIPE.py $FLAGS --batch_size 8 --max_epochs 7 --lr 0.02 \\
        --crop_size 192 --resize_min 160 --resize_max 224 --val_freq 0 --seed 1
    python make_cam.py $FLAGS --scales 1.0 1.5
    python eval_cam.py --dataset demo --session_name demo_own
"""

from torch import Tensor

from net import resnet50_SIPE as sipe


class Net(sipe.Net):
    """SIPE but for one step, in training and inference."""

    def explore(
        self, cam: Tensor, mask: Tensor, seed_feature: Tensor, feature: Tensor
    ) -> dict[str, Tensor]:
        """Return seeds, probs, prototypes and IS_cam, see :meth:`net.resnet50_SIPE.Net.explore`."""
        seeds, probs = sipe.get_seed(cam, mask, seed_feature)
        prototypes = sipe.get_prototype(seeds * cam.detach(), feature)
        is_cam = sipe.reactivate(prototypes, feature)
        return {"seeds": seeds, "probs": probs, "prototypes": prototypes, "IS_cam": is_cam}
