"""A network that has nothing of ResNet-50, written as docs/own_method.md says."""

from torch import Tensor, nn

from net.method import Method
from net.resnet50_SIPE import general_cam


class Net(Method):
    """One convolution of stride 8, batch normalisation, dropout and a classifier: its CAM."""

    stride = 8
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self, num_classes: int, pretrained: str | None, features: int = 6) -> None:
        super().__init__(num_classes, features=features)
        self.stem = nn.Conv2d(3, features, 9, 8, 4)
        self.norm = nn.BatchNorm2d(features)
        self.classifier = nn.Conv2d(features, num_classes - 1, 1)
        self.dropout = nn.Dropout(0.2)
        self.never_used = nn.Linear(2, 2)

    def forward(self, img: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
        """Return logits and CAM, which is IS-CAM too."""
        logits = self.classifier(self.dropout(self.norm(self.stem(img)).relu()))
        cam = general_cam(logits) * valid_mask
        return {"score": logits.mean((2, 3)), "cam": cam, "IS_cam": cam}

    def losses(self, out: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return the classification loss, and one of the network's own."""
        return {**super().losses(out, label), "Size": out["cam"][:, 1:].mean()}

    def trainable_groups(self, lr: float, weight_decay: float) -> list[dict]:
        """Return groups as torch.optim takes them."""
        stem = {"params": self.stem.parameters(), "lr": lr}
        rest = [*self.norm.parameters(), *self.classifier.parameters()]
        return [stem, {"params": rest, "lr": 5 * lr, "weight_decay": weight_decay}]
