"""Write the table and the picture of the README's first screen from the runs in benchmarks/checkpoints.

python benchmarks/readme.py
"""

from __future__ import annotations

from pathlib import Path

from robustscape.figures.all import draw
from robustscape.report.tables import summary, to_markdown
from robustscape.runs import read_runs

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def main() -> None:
    """Write both; everything between the two marks of the README is replaced."""
    parts = []
    for group in sorted(path for path in (HERE / "checkpoints").iterdir() if path.is_dir()):
        folders = read_runs([group])
        pictures = HERE.parent / "docs" / "pictures" / group.name
        wanted = [path for path in draw([f.path for f in folders], pictures, form="png") if path.stem == "slices-last"]
        for other in pictures.glob("*.png"):
            if other not in wanted:
                other.unlink()
        text = (group / "README.md").read_text().strip()
        shown = "\n".join(f"![Slices of the loss]({path.relative_to(README.parent)})" for path in wanted)
        parts.append(f"{text}\n\n{to_markdown(summary(folders))}\n{shown}")
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
