#!/usr/bin/env bash
# The three denoisers on the demo's data at equal training time (MINUTES, default 4); the table of docs/log.md.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
$lgdlm prepare --config-name demo
for denoiser in transformer mmdit rwkv7; do
    $lgdlm train --config-name demo "model=$denoiser" training.num_train_steps=null "training.max_minutes=${MINUTES:-4}" \
        "logging.run_name=denoiser_$denoiser" "$@"
    $lgdlm evaluate "outputs/denoiser_$denoiser"
done
