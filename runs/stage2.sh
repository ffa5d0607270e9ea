#!/usr/bin/env bash
# Stage II on the demo's data: its own latents behind the demo's Stage I (trained first where outputs/demo is not there), measured with
# the data's latents, as Stage I was before it, then with its own; and texts from its prior.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
stage1=${STAGE1:-outputs/demo}
$lgdlm prepare --config-name demo
[ -e "$stage1/latest" ] || $lgdlm train --config-name demo
$lgdlm evaluate "$stage1" --config-name demo out=outputs/stage1_before.json
$lgdlm train --config-name stage2 "model.checkpoint_path=$stage1" "$@"
$lgdlm evaluate outputs/stage2 --config-name demo
$lgdlm evaluate outputs/stage2 --config-name demo data.use_external_latents=false out=outputs/stage2_own.json
$lgdlm sample outputs/stage2 mode=prior num_samples=8 temperature=0.8
$lgdlm report outputs/stage2
