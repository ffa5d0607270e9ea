#!/usr/bin/env bash
# Every ablation matrix (MATRICES) at one scale (SCALE, default small), each to its page in docs/ablations; goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
for matrix in ${MATRICES:-fusion conditioning blocks denoisers cycle stage2 embedding}; do
    $lgdlm ablate "$matrix" scale="${SCALE:-small}" docs="docs/ablations/$matrix.md" "$@"
done
