"""An example of a dataset of your own: a folder a class, with the pictures that show the class.

    python train_resnet50_SIPE.py --dataset examples.own_dataset:ClassFolders \
        --dataset_root my_pictures --session_name exp_mine --val_freq 0

Reads   <root>/<class>/<name>.jpg|png...    the id of a picture is <class>_<name>
        <root>/masks/<id>.png               optional, only for evaluation: 0 background, 1..K the
                                            classes in alphabetical order, 255 not judged
"""

from pathlib import Path

from data.base import Dataset
from data.lists import PICTURE_ENDINGS, visible
from tool.errors import InputError


class ClassFolders(Dataset):
    """Pictures that lie in the folder of their class; the only list, ``train``, is all of them."""

    name = f"{__name__}:ClassFolders"
    default_root = "my_pictures"
    test_list = "train"

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(root)
        folders = [p for p in visible(self.root) if p.is_dir() and p.name != "masks"]
        self.class_names = tuple(folder.name for folder in folders)
        self.files: dict[str, Path] = {}
        for folder in folders:
            for path in visible(folder):
                if path.suffix.lower() in PICTURE_ENDINGS:
                    image_id = f"{folder.name}_{path.stem}"
                    if image_id in self.files:
                        raise InputError(f"{path} has the id of {self.files[image_id]}. Rename it.")
                    self.files[image_id] = path
        if not self.files:
            raise InputError(f"There is no picture in the folders of {self.root}, one a class.")

    def list_ids(self, list_name: str) -> list[str]:
        """Return every id, for the list ``train``."""
        if list_name != "train":
            raise InputError(f"{self.root} has no list {list_name!r}; name a text file of ids.")
        return list(self.files)

    def image_path(self, image_id: str) -> Path:
        """Return the picture's file; one that does not exist for an unknown id."""
        return self.files.get(image_id, self.root / image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return masks/<id>.png."""
        return self.root / "masks" / f"{image_id}.png"

    def names_of(self, image_id: str) -> set[str]:
        """Return the class whose folder a picture lies in."""
        return {self.image_path(image_id).parent.name}
