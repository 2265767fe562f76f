"""The notebooks: run from the first cell to the last, stored with what they show, and made pages of the site.

    python -m scripts.site.notebooks [FILE…]

runs all of notebooks/, or those that are named, each in an empty folder, and stores what they show.
"""

import base64
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLOURS = 64  # of a stored picture


def executed(file: Path, folder: Path) -> dict:
    """A notebook after it ran in a folder, as JSON: outputs, pictures with few colours, nothing of this machine or moment."""
    import nbformat
    from nbclient import NotebookClient

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its diffusion-lab is this one
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}  # Jupyter's stores figures
    content = nbformat.read(file, as_version=4)
    client = NotebookClient(content, timeout=900, resources={"metadata": {"path": str(folder)}})
    client.execute(env={**environment, "PATH": path, "PYTHONPATH": str(ROOT)})
    for cell in content.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _small(data["image/png"])
                data.pop("text/plain", None)
    content.metadata = {key: content.metadata[key] for key in ("kernelspec",)} | {"language_info": {"name": "python"}}
    return json.loads(nbformat.writes(content))


def page(notebook: str) -> str:
    """The cells of a notebook as Markdown: text, code, and below the code what it shows."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        else:
            parts += [f"```python\n{text}\n```", *(_shown(output) for output in cell["outputs"])]
    return "\n\n".join(part for part in parts if part)


def _shown(output: dict) -> str:
    data = {kind: "".join(content) for kind, content in output.get("data", {}).items()}
    if "image/png" in data:
        return f"![](data:image/png;base64,{data['image/png'].strip()})"
    if "text/html" in data:  # a table
        return re.sub(r"<style.*?</style>|\n\s*", "", data["text/html"], flags=re.DOTALL)
    text = ("".join(output.get("text", "")) or data.get("text/plain", "")).strip("\n")
    return f"```text\n{text}\n```" if text else ""


def _small(picture: str) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            done = executed(Path(name).resolve(), Path(folder))
        Path(name).write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(name)
