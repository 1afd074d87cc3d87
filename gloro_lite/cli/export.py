"""`export`: a net with its bottom class as a file that other programs run."""

from __future__ import annotations

import argparse

from gloro_lite import export, stored
from gloro_lite.cli import arguments
from gloro_lite.console import check_folder_of
from gloro_lite.files import expanded


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "export",
        help="write a net with bottom as .pt2 (torch.export) or .onnx",
        description=(
            "Write a net that takes a batch of images and gives the logits and, last, the logit of bottom. The file carries the "
            "certified bound as data, and where bottom loses by less than the rounding of the program that runs it, nothing is "
            "proven: certificates are what `certify` gives."
        ),
    )
    arguments.net(p)
    p.add_argument("--output", required=True, metavar="FILE", help="a path that ends in .pt2 or .onnx")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Raises ValueError and OSError."""
    output = expanded(options.output)
    writers = {".pt2": export.save_program, ".onnx": export.save_onnx}
    suffix = output.suffix.lower()
    if suffix not in writers:
        raise ValueError(f"--output must end in .pt2 or .onnx, not in {output.suffix or 'nothing'}: {output}")
    check_folder_of(output)
    net = stored.load(options.net)
    writers[suffix](net, output)
    print(f"{output}: (batch, {', '.join(map(str, net.input_shape))}) to (batch, {net.classes + 1}), epsilon {net.epsilon:.6g}")
    return 0
