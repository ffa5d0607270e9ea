#!/usr/bin/env bash
# What rescues a setting that does not train: eight short runs, their table and their curves (docs/stabilisation.md shows them).
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
$lgdlm ablate stabilisation scale=quick seeds="${SEEDS:-[1]}" docs=docs/ablations/stabilisation.md "$@"
