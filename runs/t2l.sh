#!/usr/bin/env bash
# The encoder alone: text to latent.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
$lgdlm prepare --config-name demo
$lgdlm train --config-name demo loss.loss_type=t2l logging.run_name=t2l "$@"
$lgdlm evaluate outputs/t2l --config-name demo
