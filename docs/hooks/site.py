"""MkDocs hooks: fill in the generated reference pages, and serve repository files that pages link to.

Pages are written for readers of the repository, so a link such as `../examples/quickstart/README.md` leaves `docs/`.
The site copies each linked file to the same path below its root, and rewrites the link. A link to a folder becomes a
link to its README.md, or plain text if it has none.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!`)(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)(```+).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`\n]+`")
GENERATED = {
    "command line": reference.command_line,
    "configuration": reference.configuration,
    "model files": lambda: reference.modules("w2v_compress.model_file"),
    "evaluation": lambda: reference.modules("w2v_compress.evaluation"),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every repository file that pages link to, directly or through each other."""
    found = {f"docs/{file.src_uri}" for file in files.documentation_pages()}
    queue = sorted(found)
    while queue:
        page = queue.pop()
        if not page.endswith(".md"):
            continue
        for match in LINK.finditer(_without_code((ROOT / page).read_text(encoding="utf-8"))):
            target = _target(page, match[3])
            if target is not None and target not in found and (ROOT / target).is_file():
                found.add(target)
                queue.append(target)
                if not target.startswith("docs/"):
                    outside = InclusionLevel.NOT_IN_NAV
                    files.append(File.generated(config, target, abs_src_path=str(ROOT / target), inclusion=outside))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in generated parts, and rewrite links that leave `docs/`."""
    for name, generate in GENERATED.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, generate())
    uri = page.file.src_uri
    source = uri if page.file.generated_by else f"docs/{uri}"

    def rewrite(match: re.Match[str]) -> str:
        target = _target(source, match[3])
        if target is None:
            return match[0]
        if not (ROOT / target).is_file():
            return match[2]
        anchor = "#" + match[3].partition("#")[2] if "#" in match[3] else ""
        relative = posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(uri) or ".")
        return f"{match[1]}[{match[2]}]({relative}{anchor})"

    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(rewrite, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return _unescape_pipes("".join([*parts, LINK.sub(rewrite, markdown[end:])]))


def _unescape_pipes(markdown: str) -> str:
    r"""Replace `\|` by `|` in code spans of tables: GitHub needs the backslash, Python-Markdown would print it."""
    lines = markdown.split("\n")
    for number, line in enumerate(lines):
        if line.startswith("|"):
            lines[number] = CODE_SPAN.sub(lambda span: span[0].replace(r"\|", "|"), line)
    return "\n".join(lines)


def _without_code(markdown: str) -> str:
    return FENCE.sub("", markdown)


def _target(page: str, link: str) -> str | None:
    """Return the repository path that `link` of `page` means; None for another site or an anchor of the same page."""
    path = link.partition("#")[0]
    if not path or re.match(r"[a-z]+:", path):
        return None
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    return f"{target}/README.md" if (ROOT / target / "README.md").is_file() else target
