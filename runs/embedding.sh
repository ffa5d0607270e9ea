#!/usr/bin/env bash
# Embedding diffusion on the demo's data: noise on token embeddings, rounded at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
$lgdlm prepare --config-name embedding
$lgdlm train --config-name embedding "$@"
$lgdlm evaluate outputs/embedding --config-name embedding
$lgdlm sample outputs/embedding mode=joint num_samples=8
