"""Reads the notes: plain Markdown with fixed headings, and tables with fixed headers."""

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import zoo
from zoo import registry

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "papers"
ABOUT = {name: registry.paper(name) for name in zoo.names()}
ARCHITECTURES = sorted({about.note for about in ABOUT.values()})
ENCODERS = {  # module of zoo.encoders: its note
    "resnet": "papers/resnet.md",
    "efficientnet": "papers/efficientnet.md",
    "regnet": "papers/regnet.md",
    "xception": "papers/xception.md",
    "hrnet": "papers/hrnet.md",
    "mit": "papers/segformer.md",
}
SECTIONS = [
    "1. In three sentences",
    "2. The picture",
    "3. Stage table",
    "4. Equations and code",
    "5. Deviation ledger",
    "6. Training as published",
    "7. Results",
    "8. Try it",
    "9. Traps",
    "10. Citation and what came after",
]


class Note:
    """A note's head, sections, tables and links."""

    def __init__(self, path: Path) -> None:
        self.path, self.text = path, path.read_text(encoding="utf-8")
        parts = re.split(r"^## (.+)$", self.text, flags=re.M)
        self.head = " ".join(parts[0].split())
        self.headings = parts[1::2]
        self.sections = dict(zip(self.headings, parts[2::2], strict=True))

    def section(self, number: int) -> str:
        """The text under the heading of that number."""
        return self.sections[SECTIONS[number - 1]]

    def table(self, number: int, *header: str) -> list[dict[str, str]]:
        """The rows under exactly these column names, in the section of that number."""
        return table(self.section(number), *header)


def table(text: str, *header: str) -> list[dict[str, str]]:
    """The rows of the one Markdown table in `text` with exactly these column names."""
    found = [rows for rows in tables(text) if tuple(rows[0]) == header]
    assert len(found) == 1, f"one table with the columns {header} is wanted, found {len(found)}"
    return found[0]


def tables(text: str) -> list[list[dict[str, str]]]:
    """The rows of every Markdown table in `text`."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.M):
        header, _, *rows = (cells(line) for line in block.splitlines())
        assert len(set(header)) == len(header), f"two columns of one name: {header}"
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def cells(line: str) -> list[str]:
    """The cells of a table's line; no cell holds a bar."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def links(text: str) -> list[tuple[str, str]]:
    """(words, target) of every link and picture outside code blocks."""
    return re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))


def symbols(path: Path) -> set[str]:
    """Functions, classes, Class.method and constants of a Python file, read without running it."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


def docstring(module: str) -> str:
    """What the file of a module says of itself."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def number(text: str) -> int:
    """1,234 -> 1234."""
    return int(text.replace(",", ""))


def load_script(path: Path) -> ModuleType:
    """A script outside the package, as a module; what lies beside it can be imported, as by running it."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
