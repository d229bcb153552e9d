"""What benchmarks beside peers share: contenders in processes, and where need be in environments, of their own.

A process compiles once and then waits. One computes at a time and rounds are interleaved, so that whatever else loads
the machine loads all alike; and none has the settings that another makes of its process.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "build" / "bench"


def environment(name, requirements):
    """The Python of a peer's virtual environment, made when it is missing."""
    place = ENVIRONMENTS / name
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        print(f"installing {name} into {place} (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
        subprocess.run(install, check=True, stdout=sys.stderr)
        (place / "complete").touch()
    return python


class Worker:
    """A process of `script --worker name` that answers questions. On the project's Python it finds the project."""

    def __init__(self, script, name, python=sys.executable):
        path = {"PYTHONPATH": str(ROOT)} if python == sys.executable else {}
        self.process = subprocess.Popen(
            [python, script, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | path,
        )

    def ask(self, **question):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        reply = self.process.stdout.readline()
        if not reply:
            name, code = self.process.args[-1], self.process.wait()
            raise RuntimeError(f"{name} ended at {question}, exit code {code}")
        return json.loads(reply)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def answer(function):
    """The worker's side: `function(**question)` of every question, until there are no more."""
    for line in sys.stdin:
        print(json.dumps(function(**json.loads(line))), flush=True)


def ratio(theirs, ours):
    """Median over rounds."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
