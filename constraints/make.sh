#!/usr/bin/env bash
# Pins the newest versions of all dependencies, one file for each Python line: a fresh environment is built, then frozen.
# Pythons that are not found are named and skipped; their files stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

for version in 3.11 3.12 3.13; do
    python="python$version"
    if ! "$python" -c '' 2>/dev/null; then
        echo "$python not found: constraints/py${version/./}.txt is left as it is" >&2
        continue
    fi
    environment="$(mktemp -d)"
    trap 'rm -rf "$environment"' EXIT
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check '.[test,docs,lint]'
    # Names and versions only: no host, no path.
    "$environment/bin/python" -m pip list --disable-pip-version-check --format freeze --exclude ppl-inference \
        --exclude pip --exclude setuptools --exclude wheel >"constraints/py${version/./}.txt"
    rm -rf "$environment"
    echo "constraints/py${version/./}.txt: $(wc -l <"constraints/py${version/./}.txt") packages"
done
