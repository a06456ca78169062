"""An example of a folder of your own pictures, as ``--dataset folder`` reads it.

    python -m examples.own_pictures [--out pictures]

Takes the demo's pictures that show no other class than its first three, and writes them with their
labels and masks as docs/own_pictures.md describes the folder. The same document has the commands
that run every step on it.
"""

import shutil
from pathlib import Path

from data.demo import Demo
from tool.cli import Parser, Words
from tool.run import run
from tool.writer import own_folder, write_lines

NUM_CLASSES = 3  # foreground classes of the example; few classes need little training


def main(arguments: Words = None) -> None:
    """Write the folder; one that this program made is written again, no other one."""
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="the folder to write")
    out = parser.parse_args(arguments).out

    demo = Demo()
    names = demo.class_names[:NUM_CLASSES]
    ids = [*demo.ids("train"), *demo.ids("val")]
    labels = demo.labels(ids)  # (len(ids), K) in {0, 1}
    own_folder(out, "examples.own_pictures")
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows = ["image,labels"]
    for image_id, present in zip(ids, labels, strict=True):
        if present[NUM_CLASSES:].any():
            continue
        picture = demo.image_path(image_id)
        shutil.copy(picture, out / "images")
        shutil.copy(demo.mask_path(image_id), out / "masks")
        classes = [name for k, name in enumerate(names) if present[k]]
        rows.append(f"{picture.name},{' '.join(classes)}")
    write_lines(out / "classes.txt", names)
    write_lines(out / "labels.csv", rows)
    print(f"{len(rows) - 1} pictures of {', '.join(names)} written to {out}")


if __name__ == "__main__":
    run(main)
