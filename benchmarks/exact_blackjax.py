"""Runs one of BlackJAX's exact samplers on a benchmark problem and prints one line of JSON.

    python -m benchmarks.exact_blackjax --problem dln --file FILE --sampler nuts --draws-to FILE

Everything in float64, vmapped over the chains and jitted, with the settings of ours: HMC of unit
mass with trajectory times T·[½, 1½] and dual averaging to 0.8, NUTS with `window_adaptation` (0.8,
diagonal mass), MCLMC with its own tuning to an energy variance of 5e-4 (without preconditioning,
which ours does not have either). A linear network is what a user would write: products with the
data.
"""

import time
from functools import partial

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.adaptation.step_size import dual_averaging_adaptation

from benchmarks import exact_problems

jax.config.update("jax_enable_x64", True)
TARGET = 0.8
DRAWS_AT_ONCE = {"hmc": 10, "nuts": 10, "mclmc": 200}


def model(name: str, arrays) -> tuple:
    """Returns (w*, nβL, log density) of a problem file."""
    centre = {key[2:]: jnp.asarray(arrays[key]) for key in arrays.files if key.startswith("w*")}
    nbeta = float(arrays["nbeta"])
    if name == "quadratic":
        h = jnp.asarray(arrays["curvatures"])

        def loss(w):
            return (h * w["w"] ** 2).sum() / 2
    else:
        x, y = jnp.asarray(arrays["inputs"]), jnp.asarray(arrays["targets"])
        layers = list(centre)
        activation = jnp.tanh if name == "tanh_mlp" else jax.nn.relu

        def loss(w):
            hidden = x
            if name in exact_problems.LINEAR:
                for layer in layers:
                    hidden = hidden @ w[layer].T
            else:
                for i in range(0, len(layers), 2):
                    hidden = hidden @ w[layers[i]].T + w[layers[i + 1]]
                    hidden = activation(hidden) if i + 2 < len(layers) else hidden
            return jnp.mean((hidden - y) ** 2)

    def energy(w):
        return nbeta * loss(w)

    def log_density(w):
        pull = sum(((w[name] - centre[name]) ** 2).sum() for name in centre)
        return -energy(w) - exact_problems.GAMMA / 2 * pull

    return centre, energy, log_density


def recorded(centre, state):
    """nβL at a state, from its log density: no further pass over the data."""
    pull = sum(((state.position[name] - centre[name]) ** 2).sum() for name in centre)
    return -state.logdensity - exact_problems.GAMMA / 2 * pull


def hmc(log_density, centre, warm_up):
    """Returns (warm, step): one chain's."""
    time_of = np.pi / (2 * np.sqrt(exact_problems.GAMMA))
    size = sum(leaf.size for leaf in centre.values())

    def steps(key, epsilon):
        count = jnp.ceil(time_of * (0.5 + jax.random.uniform(key)) / epsilon)
        return jnp.clip(count, 1, 1000).astype(int)

    kernel = blackjax.dynamic_hmc.build_kernel(integration_steps_fn=steps)
    start, update, final = dual_averaging_adaptation(TARGET)
    ones = jnp.ones(size)

    def step(state, key, epsilon):
        state, info = kernel(key, state, log_density, epsilon, ones, (epsilon,))
        return state, info.num_integration_steps, info.acceptance_rate

    def warm(key):
        state = blackjax.dynamic_hmc.init(centre, log_density, key)
        first = blackjax.adaptation.step_size.find_reasonable_step_size(
            key,
            lambda e: lambda k, s: kernel(k, s, log_density, e, ones, (time_of,)),
            state,
            0.01,
            TARGET,
        )

        def body(carry, key):
            state, da = carry
            state, _, acceptance = step(state, key, jnp.exp(da.log_step_size))
            return (state, update(da, acceptance)), None

        keys = jax.random.split(key, warm_up)
        (state, da), _ = jax.lax.scan(body, (state, start(first)), keys)
        return state, final(da)

    return warm, step


def nuts(log_density, centre, warm_up):
    """Returns (warm, step): one chain's."""
    adaptation = blackjax.window_adaptation(
        blackjax.nuts,
        log_density,
        target_acceptance_rate=TARGET,
        initial_step_size=0.01,
        max_num_doublings=exact_problems.MAX_DEPTH,
    )
    kernel = blackjax.nuts.build_kernel()

    def warm(key):
        (state, parameters), _ = adaptation.run(key, centre, warm_up)
        return state, (parameters["step_size"], parameters["inverse_mass_matrix"])

    def step(state, key, parameters):
        state, info = kernel(
            key, state, log_density, *parameters, max_num_doublings=exact_problems.MAX_DEPTH
        )
        return state, info.num_integration_steps, info.acceptance_rate

    return warm, step


def mclmc(log_density, centre, warm_up):
    """Returns (warm, step): one chain's; two gradients a step."""
    kernel = blackjax.mclmc.build_kernel()

    def warm(key):
        state = blackjax.mclmc.init(centre, log_density, key)
        state, parameters, _ = blackjax.mclmc_find_L_and_step_size(
            mclmc_kernel=kernel,
            num_steps=warm_up,
            state=state,
            rng_key=key,
            logdensity_fn=log_density,
            diagonal_preconditioning=False,
            frac_tune1=1 / 3,
            frac_tune2=1 / 3,
            frac_tune3=1 / 3,
            desired_energy_var=5e-4,
        )
        return state, parameters

    def step(state, key, p):
        state, _ = kernel(key, state, log_density, p.inverse_mass_matrix, p.L, p.step_size)
        return state, jnp.array(2), jnp.array(jnp.nan)

    return warm, step


def main() -> None:
    """Samples, and prints the line of JSON."""
    args = exact_problems.arguments(__doc__)
    centre, energy, log_density = model(args.problem, np.load(args.file))
    make = {"hmc": hmc, "nuts": nuts, "mclmc": mclmc}[args.sampler]
    warm, step = make(log_density, centre, exact_problems.WARM_UP[args.sampler])
    few, chains = DRAWS_AT_ONCE[args.sampler], args.chains

    @jax.jit
    def some(states, parameters, key):
        def body(states, key):
            keys = jax.random.split(key, chains)
            states, counts, _ = jax.vmap(step)(states, keys, parameters)
            # NUTS counts each chain's own leaves, HMC those of the longest trajectory: as ours do.
            asked = counts.sum() if args.sampler == "nuts" else counts.max() * chains
            return states, (jax.vmap(partial(recorded, centre))(states), asked)

        return jax.lax.scan(body, states, jax.random.split(key, few))

    start = time.perf_counter()
    key = jax.random.key(args.seed)
    states, parameters = jax.block_until_ready(
        jax.jit(jax.vmap(warm))(jax.random.split(key, chains))
    )
    compiled = some.lower(states, parameters, key).compile()
    warm_up_seconds = time.perf_counter() - start

    values, gradients, start = [], 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < args.seconds:
        key, own = jax.random.split(key)
        states, (energies, counts) = jax.block_until_ready(compiled(states, parameters, own))
        values.append(np.asarray(energies))
        gradients += int(counts.sum())
    draws = np.concatenate(values).T - float(energy(centre))
    exact_problems.report(
        args,
        draws,
        seconds=seconds,
        warm_up_seconds=warm_up_seconds,
        gradients=gradients,
        versions={"blackjax": blackjax.__version__, "jax": jax.__version__},
    )


if __name__ == "__main__":
    main()
