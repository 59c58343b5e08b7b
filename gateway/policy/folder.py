"""`policies/*.yaml` → a book. Every fault of every file is found before the folder is refused.

YAML is read by the safe loader, without aliases (no bombs) and without duplicate keys (no silent loss).
"""

from collections.abc import Collection, Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gateway.policy.book import Book, assemble
from gateway.policy.faults import Fault, PolicyFaults

MAX_BYTES = 1 << 20  # of one file
MAX_FILES = 256
MAX_DEPTH = 32  # PyYAML's time grows with the square of the nesting


def load_folder(path: Path | str, checks: Collection[str] | None = None) -> Book:
    """The book in a folder's *.yaml and *.yml files (sorted by name), or in one file.

    `checks` are the guard checks that exist. Raises PolicyFaults.
    """
    faults: list[Fault] = []
    parts: list[tuple[str, Any]] = []
    for file in files(Path(path)):
        try:
            parts.append((str(file), parse(_text(file))))
        except (OSError, ValueError) as error:
            faults.append(Fault(str(file), "", _why(error)))
    return assemble(parts, checks, unread=faults)


def parse(text: str) -> Any:
    """One YAML document as plain values. Raises ValueError with line and column."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def files(path: Path) -> list[Path]:
    """The files of a book, in order. Raises PolicyFaults."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise PolicyFaults([Fault(str(path), "", "no such folder")])
    found = sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    if not found:
        raise PolicyFaults([Fault(str(path), "", "holds no *.yaml file")])
    if len(found) > MAX_FILES:
        raise PolicyFaults([Fault(str(path), "", f"holds {len(found)} files; at most {MAX_FILES}")])
    return found


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        raw = stream.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES >> 10} KiB")
    return raw.decode("utf-8-sig")


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"is not UTF-8 (byte {error.start})"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _Loader(yaml.SafeLoader):
    """Safe YAML, minus aliases, duplicate keys and deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._refuse("aliases are not allowed")
        if self.depth >= MAX_DEPTH:
            self._refuse("nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, reason: str) -> NoReturn:
        mark = self.get_event().start_mark  # type: ignore[no-untyped-call]  # PyYAML has no types here
        raise yaml.composer.ComposerError(None, None, reason, mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f'duplicate key "{key.value}"', key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)
