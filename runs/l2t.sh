#!/usr/bin/env bash
# The decoder alone: latent to text.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
$lgdlm prepare --config-name demo
$lgdlm train --config-name demo loss.loss_type=l2t logging.run_name=l2t "$@"
$lgdlm evaluate outputs/l2t --config-name demo
