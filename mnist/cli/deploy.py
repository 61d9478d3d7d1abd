"""``mnist export`` and ``mnist demo``."""

from pathlib import Path

import click

from mnist import files
from mnist.cli import display, options, tables
from mnist.cli import model_options as choices
from mnist.cli.judging import check_classes, data_of, load_data
from mnist.cli.model_options import Chosen
from mnist.cli.options import DataOptions
from mnist.cli.process import import_torch
from mnist.errors import MnistError


@click.command()
@choices.chosen(choices.model)
@options.data(None, f"Images to check the file with; {options.MODEL_DATASET}")
@options.optional_path("--output", "ONNX file to write; by default beside the model.")
def export(chosen: Chosen, data_options: DataOptions, output: Path | None) -> None:
    """Write MODEL as an ONNX file that maps images to probabilities and the predicted digit.

    By default, MODEL is the newest model that passed the gate.

    The input is uint8 [batch, 1, 28, 28]; normalization is part of the file. The file is written only if ONNX
    Runtime and PyTorch predict the same digit for every test image, with probabilities that differ by at most 1e-5.
    """
    import_torch()
    from mnist.deploy import export as exporting

    artifact = chosen.load()
    path = output or artifact.path.with_suffix(".onnx")
    if path.suffix != ".onnx":
        raise MnistError(f"--output must end in .onnx, not {path}")
    content = exporting.to_onnx(artifact)
    dataset = load_data(data_options, data_of(artifact))
    check_classes(artifact, dataset)
    agreement = exporting.check(content, artifact.model, dataset.test.images)
    display.write(
        f"ONNX Runtime and PyTorch predict the same digit for every image ({dataset.test.description}); "
        f"probabilities differ by at most {agreement.difference:.1e}"
    )
    rows = tables.table("images per batch", "ONNX Runtime, ms", "PyTorch, ms", "speed-up")
    for latency in exporting.latencies(content, artifact.model):
        rows.add_text_row(
            f"{latency.batch:,}",
            f"{1000 * latency.onnx:.3f}",
            f"{1000 * latency.torch:.3f}",
            f"{latency.torch / latency.onnx:.1f}",
        )
    tables.show(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not files.write_new(path, content):
        display.notify("an identical file already exists")
    display.write(path)


@click.command()
@choices.chosen(choices.model)
@choices.min_confidence
@options.path("--output", "site/index.html", "HTML file to write.")
def demo(chosen: Chosen, min_confidence: float | None, output: Path) -> None:
    """Write a web page that recognizes drawn digits with MODEL (default: the newest that passed the gate).

    The page is a single file that needs neither a server nor an internet connection.
    """
    if output.suffix != ".html":
        raise MnistError(f"--output must end in .html, not {output}")
    import_torch()
    from mnist.deploy import page

    artifact = chosen.load(min_confidence)
    content = page.render(artifact).encode()
    if output.exists() and page.MARK.encode() not in files.read(output, page.MAX_PAGE_BYTES):
        raise MnistError(f"{output} exists and was not written by mnist demo (choose another --output)")
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(output, content)
    display.notify(f"page with {artifact.path}, {len(content) / 1000:,.0f} kB; open it in a browser:")
    display.write(output)
