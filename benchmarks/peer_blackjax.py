"""BlackJAX SGLD on a benchmark workload: one jitted `lax.scan`, chains on a vmapped axis.

    python -m benchmarks.peer_blackjax --workload W1 --chains 8 --seconds 10 [--tuned] [--devices 2]

BlackJAX's own Langevin step (`overdamped_langevin`, the update inside `blackjax.sgld`) is fed
with `jax.value_and_grad`, so that the minibatch loss is recorded at no extra cost; nothing leaves
the compiled program between steps; inputs and targets share one table so that a batch is a single
gather; each chain draws its own minibatch (uniform, with replacement) inside the step. Threefry,
JAX's default generator, was the fastest here. `--tuned` also does what a user who profiles would:
the indices are drawn for a block of steps ahead of the block's scan, and the scan is unrolled where
that pays.

`--devices 2` makes two host devices of one core each and gives each half of the chains: faster
than XLA's own use of two cores on all three workloads, and reported as a row of its own.
"""

import os
import time

from benchmarks import harness
from benchmarks.workloads import Workload, data, teacher

TUNED_BLOCK = {"W1": 100, "W2": 10, "W3": 100}  # steps whose minibatch indices are drawn together
TUNED_UNROLL = {"W1": 4, "W2": 1, "W3": 1}  # measured
PILOT_STEPS = {"W1": 1000, "W2": 10, "W3": 1000}


def build(workload: Workload, chains: int, devices: int, block_steps: int, unroll: int):
    """Returns (init, compiled_run): the state to start from, and a function of the run's length.

    `compiled_run(blocks, state, key)` compiles a run of that many blocks of steps, which then
    takes (state, key) to (state, losses (blocks, block_steps, chains)).
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from blackjax.sgmcmc.diffusions import overdamped_langevin

    n, batch, inputs = workload.num_data, workload.batch_size, workload.widths[0]
    table = jnp.asarray(np.concatenate(data(workload), axis=1))
    centre = [{k: jnp.asarray(v.T) for k, v in layer.items()} for layer in teacher(workload)]
    langevin = overdamped_langevin()

    def loss(params, rows):
        h = rows[:, :inputs]
        for i, layer in enumerate(params):
            h = h @ layer["weight"]
            if workload.bias:
                h = h + layer["bias"]
                if i < len(params) - 1:
                    h = jax.nn.relu(h)
        return jnp.mean((h - rows[:, inputs:]) ** 2)

    def one_step(params, key, indices, table):
        value, grad = jax.value_and_grad(loss)(params, table[indices])
        logdensity_grad = jax.tree.map(
            lambda g, p, c: -workload.nbeta * g - workload.gamma * (p - c), grad, params, centre
        )
        # BlackJAX's step size multiplies the gradient itself, hence epsilon / 2.
        return langevin(key, params, logdensity_grad, workload.epsilon / 2), value

    steps_of_chains = jax.vmap(one_step, in_axes=(0, 0, 0, None))

    def sample(params, key, table, blocks, chains):
        def block(params, key):
            key_batch, key_noise = jax.random.split(key)
            indices = jax.random.randint(key_batch, (block_steps, chains, batch), 0, n)
            keys = jax.random.split(key_noise, (block_steps, chains))
            return jax.lax.scan(
                lambda p, xs: steps_of_chains(p, *xs, table),
                params,
                (keys, indices),
                unroll=unroll,
            )

        return jax.lax.scan(block, params, jax.random.split(key, blocks))

    init = jax.tree.map(lambda v: jnp.tile(v, (chains,) + (1,) * v.ndim), centre)

    def sharded(params, key, table, blocks):
        share = chains // devices

        def on_device(params, table):
            own = jax.random.fold_in(key, jax.lax.axis_index("chains"))
            return sample(params, own, table, blocks, share)

        P = jax.sharding.PartitionSpec
        auto = (jax.sharding.AxisType.Auto,)
        return jax.shard_map(
            on_device,
            mesh=jax.make_mesh((devices,), ("chains",), axis_types=auto),
            in_specs=(P("chains"), P()),
            out_specs=(P("chains"), P(None, None, "chains")),
            check_vma=False,
        )(params, table)

    def compiled_run(blocks, state, key):
        def run(params, key, table):
            if devices > 1:
                return sharded(params, key, table, blocks)
            return sample(params, key, table, blocks, chains)

        compiled = jax.jit(run).lower(state, key, table).compile()
        shardings = compiled.input_shardings[0]
        placed = jax.device_put(table, shardings[2])
        return lambda s, k: compiled(*jax.device_put((s, k), shardings[:2]), placed)

    return init, compiled_run


def main() -> None:
    """Times the sampler and prints the line of JSON."""
    p = harness.parser(__doc__.splitlines()[0])
    p.add_argument("--devices", type=int, default=1, help="host devices that share the chains")
    p.add_argument("--tuned", action="store_true", help="indices in blocks, scan unrolled")
    args = p.parse_args()
    if args.chains % args.devices:
        p.error(f"--chains {args.chains} cannot be shared by --devices {args.devices}")
    if args.devices > 1:
        flag = f"--xla_force_host_platform_device_count={args.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    import jax  # after XLA_FLAGS

    workload = harness.workload_of(args)
    block = TUNED_BLOCK[workload.name] if args.tuned else 1
    unroll = TUNED_UNROLL[workload.name] if args.tuned else 1
    state, compiled_run = build(workload, args.chains, args.devices, block, unroll)
    keys = iter(jax.random.split(jax.random.key(0), harness.REPEATS + 3))
    losses = None

    def seconds_of(run) -> float:
        nonlocal state, losses
        start = time.perf_counter()
        state, losses = jax.block_until_ready(run(state, next(keys)))
        return time.perf_counter() - start

    few = max(1, PILOT_STEPS[workload.name] // block)
    pilot = compiled_run(few, state, jax.random.key(0))
    seconds_of(pilot)
    blocks = max(1, round(few * args.seconds / harness.REPEATS / seconds_of(pilot)))

    start = time.perf_counter()
    run = compiled_run(blocks, state, jax.random.key(0))
    compile_seconds = time.perf_counter() - start
    seconds_of(run)
    steps = blocks * block
    measured = harness.rates(lambda: seconds_of(run), steps * args.chains)
    harness.print_result(
        "blackjax" + "-tuned" * args.tuned + f"-{args.devices}dev" * (args.devices > 1),
        workload,
        args.chains,
        measured,
        compile_seconds,
        float(workload.nbeta * losses.mean()),
        ("blackjax", "jax", "jaxlib", "numpy"),
        steps=steps,
    )


if __name__ == "__main__":
    main()
