"""Folders of the user's own pictures: the dataset, and ``python -m data.folder``, which checks it.

root/images/*.jpg|png...    the pictures; a picture's id is its file name without the ending
root/images/<class>/*       or: the pictures of a class; those of ``good`` or ``normal`` have none
root/classes.txt            one class name a line, without background; names may hold spaces
root/labels.csv             header "image,labels": file name, class names; or "image,cat,dog": 0, 1
root/annotations.json       or: labels in COCO's format
root/masks/<id>.png         ground truth, only for evaluation
root/colours.csv            header "name,r,g,b", where masks are coloured
root/splits/<list>.txt      lists of ids; without the folder, "train" is every picture
"""

from data.folder.dataset import Folder

__all__ = ["Folder"]
