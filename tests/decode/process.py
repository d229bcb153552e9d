"""One process of several that decode together, texts as JSON at the end.

`python process.py ADDRESS COUNT ID LM REWARD`
"""

import json
import sys

import jax

from ppl.decode.engine import Settings, decode
from ppl.lm import load, load_reward

PROMPT = "Start:"


def texts(lm_folder: str, reward_folder: str, mesh) -> list:
    lm, reward = load(lm_folder, sharding=mesh), load_reward(reward_folder, sharding=mesh)
    settings = Settings(num_particles=8, max_steps=3, max_step_tokens=2, target="odds")
    rows = lm.complete([PROMPT], 0, num_samples=4, max_tokens=6)
    particles = decode(lm, reward, [PROMPT], jax.random.split(jax.random.key(1), 1), settings)
    return [[row.text for row in rows[0]], particles.texts[0], round(float(particles.log_evidence[0]), 4)]


if __name__ == "__main__":
    address, count, place, *folders = sys.argv[1:]
    jax.distributed.initialize(address, num_processes=int(count), process_id=int(place))
    found = texts(*folders, jax.make_mesh((jax.device_count(),), ("particles",)))
    print(json.dumps([jax.device_count(), found]))
