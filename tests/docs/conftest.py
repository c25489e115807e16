"""The Markdown pages that the tests of the documentation read: README.md and everything below docs/."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^(?P<marks>(?:<!--[^\n]*-->\n\n?)*)(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
MARK = re.compile(r"<!-- ([a-z ]+): (.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    marks: dict[str, list[str]]
    """Values of the HTML comments above the block by name: `needs`, `tested by`, `file`, `tools`."""
    text: str

    @property
    def place(self) -> str:
        """Page and line, for messages."""
        return f"{self.page}:{self.line}"


def _blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("indent")) + 1,
            match["language"],
            {name: re.split(r",\s*", values) for name, values in MARK.findall(match["marks"])},
            match["text"],
        )
        for match in FENCE.finditer(text)
    ]


@pytest.fixture(scope="session")
def pages() -> list[str]:
    """Paths of all pages from the top of the repository."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="session")
def blocks_of() -> Callable[[str], list[Block]]:
    """blocks_of(page) gives the fenced blocks of a page in order."""
    return _blocks
