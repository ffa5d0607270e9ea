#!/usr/bin/env bash
# Stage I on the demo's data: one joint model, both clocks random (stage1_coupling = unconditional).
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
$lgdlm prepare --config-name demo
$lgdlm train --config-name demo loss.loss_type=stage1_coupling logging.run_name=stage1 "$@"
$lgdlm evaluate outputs/stage1 --config-name demo
$lgdlm report outputs/stage1
