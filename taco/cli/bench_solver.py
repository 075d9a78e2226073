"""``taco bench solver``: the solvers against the paper's loop, on one machine in one run."""

from __future__ import annotations

HELP = "the solvers against the paper's autograd loop: time, loss, mask IoU, scaling"


def add_arguments(parser) -> None:
    """Arguments of ``taco bench solver``."""
    parser.add_argument("--seeds", type=int, default=20, help="made scenes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1800, help="steps of the autograd loop (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; times are processor time (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="2 scenes, 20 steps scaled to 1800, small sizes: a smoke test")


def run(args) -> int:
    """Run it and print the figures."""
    import torch

    from taco.bench.solver import run_solver
    from taco.cli import print_json
    from taco.cli.bench import progress, table

    torch.set_num_threads(max(1, args.threads))
    found = run_solver(2 if args.quick else args.seeds, 20 if args.quick else args.steps, quick=args.quick, say=progress)
    if args.json:
        print_json(found)
        return 0
    for name, part in found.items():
        rows = part if isinstance(next(iter(part.values()), None), dict) else {"": part}
        print(f"\n{name}\n\n{table(rows, '')}")
    return 0
