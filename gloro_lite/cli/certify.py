"""`certify`: each image of a folder or file with the class that a net proves for it, and the radius, as CSV."""

from __future__ import annotations

import argparse
import sys

from gloro_lite import stored
from gloro_lite.certificate import BOTTOM, GUARANTEES, joined
from gloro_lite.cli import arguments, images
from gloro_lite.console import check_folder_of
from gloro_lite.files import expanded, table, write_atomically
from gloro_lite.methods import last_layers

_BATCH = 500

BOUNDS = {"global": "the global bound", "last_layers": "the global bound, or else the local one of the last layers"}
"""What images can be certified by, and how the summary says it."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "certify",
        help="certify your own images",
        description=(
            "Certify images and write a CSV: a row for each image with its name or number, its label if the file gives labels, "
            "the net's prediction, the class that is certified at epsilon or `bottom`, and the l2 radius within which the "
            "prediction is proven not to change. Pixels count as 0 to 1 and are taken as float32."
        ),
    )
    arguments.net(p)
    p.add_argument(
        "--images",
        required=True,
        metavar="PATH",
        help="a folder of pictures, or a .npz with the images as x (bytes, or floats from 0 to 1) and labels, if any, as y",
    )
    p.add_argument(
        "--epsilon", type=arguments.radius, metavar="E", help="l2 radius, a number or a fraction (default: the net's own)"
    )
    p.add_argument(
        "--guarantee",
        choices=GUARANTEES,
        default=GUARANTEES[0],
        help="of whose prediction: the network's in real arithmetic (exact, the default), or also as PyTorch runs it on a CPU in "
        "float32, rounding errors at every point of the ball counted (deployed)",
    )
    p.add_argument(
        "--bound",
        choices=BOUNDS,
        help="global, or last_layers for a local bound of the last layers where the global one leaves an image at bottom: what "
        "it certifies has a radius just above epsilon (default: the one that the net was trained with, and global for deployed)",
    )
    p.add_argument("--output", metavar="FILE.csv", help="where to write (default: to the terminal)")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Raises ValueError and OSError."""
    output = None if options.output is None else expanded(options.output)
    if output is not None:
        if output.suffix.lower() != ".csv":  # the images, say, which would be replaced
            raise ValueError(f"--output must end in .csv, not in {output.suffix or 'nothing'}: {output}")
        check_folder_of(output)
    if options.bound == "last_layers" and options.guarantee != "exact":
        raise ValueError(
            f"the local bound of the last layers certifies nothing for --guarantee {options.guarantee}: add --bound global, or "
            f"leave --guarantee out"
        )
    own_bound = stored.record(options.net)["settings"]["bound"] if options.guarantee == "exact" else "global"
    bound = options.bound or own_bound
    net = stored.load(options.net)
    epsilon = net.epsilon if options.epsilon is None else options.epsilon
    own = images.read(options.images, net.input_shape, net.classes)
    if bound == "last_layers":
        parts = [last_layers.certify(net, images.unit(x), epsilon) for x in own.x.split(_BATCH)]
    else:
        parts = [net.certify(images.unit(x), epsilon, guarantee=options.guarantee) for x in own.x.split(_BATCH)]
    label, radii, prediction, _ = joined(parts)

    columns: dict[str, list[object]] = {"file" if expanded(options.images).is_dir() else "index": list(own.names)}
    if own.y is not None:
        columns["label"] = own.y.tolist()
    columns["prediction"] = prediction.tolist()
    columns["certified"] = ["bottom" if value == BOTTOM else value for value in label.tolist()]
    columns["radius"] = radii.tolist()
    text = table(columns, zip(*columns.values(), strict=True))
    if output is None:
        print(text.decode(), end="")  # to nowhere where there is no terminal, which sys.stdout.write does not
    else:
        write_atomically(output, text)

    certified = int((label != BOTTOM).sum())
    summary = f"{certified} of {len(label)} images certified at epsilon {epsilon:.6g}, {len(label) - certified} given bottom"
    summary += f", by {BOUNDS[bound]}"
    if own.y is not None:
        right = (prediction == own.y).double().mean().item()
        summary += f"; {right:.2%} classified correctly, {(label == own.y).double().mean().item():.2%} certified and correct"
    print(summary if output is None else f"{output}: {summary}", file=sys.stderr)
    return 0
