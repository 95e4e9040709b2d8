"""Sweeps: grids and random draws into command lines, and command lines into runs.

A command file has a line per run. `bash`, `llc run-line`, `job.slurm` and a paste into a shell
read a line alike, and Sacred reads from it the very values that went in. A generator is

    def commands() -> list[str]:
        return [command("expt_x.py", ["-F", "outputs/x"], config) for config in grid({...})]

and ends in `deliver`, which writes the file or runs the lines here. What became of each line,
`llc status` tells from the records.

Nothing here is imported before it is needed: `llc run-line` starts a run in a tenth of a second.
"""
