"""A policy folder's files as text, with other values in a few places: comments and layout stay.

Places are found by parsing, and what comes out is read as a book again. It must never write to the folder.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from gateway.policy.book import Book, assemble
from gateway.policy.folder import files, parse

Change = tuple[
    tuple[str, ...], float
]  # keys below a category, ("cache", "threshold"), and the value to put there


class Files:
    """File name → text, of one book."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    @classmethod
    def read(cls, folder: Path) -> "Files":
        """Raises PolicyFaults, OSError, UnicodeDecodeError: of a folder that `load_folder` refuses as well."""
        return cls({file.name: file.read_bytes().decode("utf-8") for file in files(folder)})

    @property
    def names(self) -> set[str]:
        """The categories that are written here; `default` need not be."""
        return {name for text in self.texts.values() for name in _categories(text)}

    def book(self) -> Book:
        """Raises PolicyFaults, ValueError."""
        return assemble([(name, parse(text.removeprefix("\ufeff"))) for name, text in self.texts.items()])

    def changed(self, wanted: Mapping[str, Change]) -> "Files":
        """With the values of some categories, where these are written."""
        return Files({name: _changed(text, wanted) for name, text in self.texts.items()})

    def diff(self, new: "Files") -> str:
        """For `patch -p1` in the folder, or `git apply`."""
        return "".join(_unified(name, text, new.texts[name]) for name, text in self.texts.items())


def _changed(text: str, wanted: Mapping[str, Change]) -> str:
    categories = _categories(text)
    places = [_place(categories[name], *wanted[name]) for name in categories.keys() & wanted.keys()]
    for start, end, put in sorted(places, reverse=True):
        text = text[:start] + put + text[end:]
    return text


def _place(node: yaml.MappingNode, path: Sequence[str], value: float) -> tuple[int, int, str]:
    """(start, end, text to put there) that gives `path` below a mapping the value."""
    below = _child(node, path[0])
    if isinstance(below, yaml.MappingNode) and below.value and len(path) > 1:
        return _place(below, path[1:], value)
    put = f"{value:.4f}".rstrip("0")
    put = f"{put}0" if put.endswith(".") else put
    for key in reversed(path[1:]):
        put = f"{{{key}: {put}}}"
    if below is not None:
        return below.start_mark.index, below.end_mark.index, put
    first = node.value[0][0].start_mark  # a mapping in this place has a key: an empty one was replaced above
    gap = ", " if node.flow_style else "\n" + " " * first.column
    return first.index, first.index, f"{path[0]}: {put}{gap}"


def _categories(text: str) -> dict[str, yaml.MappingNode]:
    """Name → where it is written."""
    listed = _child(yaml.compose(text, yaml.SafeLoader), "categories")
    items = listed.value if isinstance(listed, yaml.SequenceNode) else []
    named = ((_child(item, "name"), item) for item in items)
    return {str(name.value): item for name, item in named if name is not None}


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _unified(name: str, old: str, new: str) -> str:
    tail = "\t" if " " in name else ""  # as git writes it: the name ends here
    lines = difflib.unified_diff(_lines(old), _lines(new), f"a/{name}{tail}", f"b/{name}{tail}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _lines(text: str) -> list[str]:
    """As `patch` counts them: only a line feed ends one."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)
