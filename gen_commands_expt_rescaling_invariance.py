"""Write the commands of a sweep of `expt_rescaling_invariance.py`: networks and seeds.

    python gen_commands_expt_rescaling_invariance.py outputs/rescaling.txt

Every combination of the lists in `config`; the same lists give the same file, byte for byte.
"""

import sys
from collections.abc import Sequence

from llc.commands.generating import arguments, deliver, observer
from llc.commands.lines import command, grid

EXPT_NAME = "rescaling_invariance"
MONGO_SERVER = "localhost:27017"

config = {
    "widths": [[10, 20, 10], [20, 30, 20], [30, 40, 30]],
    "sgld_config.epsilon": [1e-5],
    "sgld_config.num_steps": [10_000],
    "sgld_config.num_chains": [5],
    "sgld_config.batch_size": [500],
    "plain_gamma": [1.0],
    "seed": [0],
}


def commands(kind: str = "files") -> list[str]:
    """A command per combination."""
    options = observer(kind, EXPT_NAME, MONGO_SERVER)
    return [
        command("expt_rescaling_invariance.py", options, {"expt_name": EXPT_NAME, **chosen})
        for chosen in grid(config)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the commands."""
    chosen = arguments(__doc__).parse_args(argv)
    return deliver(commands(chosen.observer), chosen.path, bool(chosen.overwrite))


if __name__ == "__main__":
    sys.exit(main())
