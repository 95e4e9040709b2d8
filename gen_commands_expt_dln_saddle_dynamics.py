"""Write the commands of a sweep of `expt_dln_saddle_dynamics.py`: widths, starts and seeds.

    python gen_commands_expt_dln_saddle_dynamics.py outputs/saddle.txt

Every combination of the lists in `config`; the same lists give the same file, byte for byte.
"""

import sys
from collections.abc import Sequence

from llc.commands.generating import arguments, deliver, observer
from llc.commands.lines import command, grid

EXPT_NAME = "dln_saddle_dynamics"
MONGO_SERVER = "localhost:27017"

config = {
    "width": [10, 50, 100],
    "initialisation_exponent": [1.5],
    "training_config.learning_rate": [1e-4],
    "training_config.num_steps": [50_000],
    "logging_period": [100],
    "seed": [42, 43, 44, 45, 46],
}


def commands(kind: str = "files") -> list[str]:
    """A command per combination."""
    options = observer(kind, EXPT_NAME, MONGO_SERVER)
    return [
        command("expt_dln_saddle_dynamics.py", options, {"expt_name": EXPT_NAME, **chosen})
        for chosen in grid(config)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the commands."""
    chosen = arguments(__doc__).parse_args(argv)
    return deliver(commands(chosen.observer), chosen.path, bool(chosen.overwrite))


if __name__ == "__main__":
    sys.exit(main())
