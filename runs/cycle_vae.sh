#!/usr/bin/env bash
# Cycle consistency on the demo's data: decoder and encoder in every step, each judged by the other.
set -euo pipefail
cd "$(dirname "$0")/.."
lgdlm=.venv/bin/lgdlm
[ -x $lgdlm ] || { echo "no $lgdlm: run make setup first" >&2; exit 2; }
$lgdlm prepare --config-name cycle
$lgdlm train --config-name cycle "$@"
$lgdlm evaluate outputs/cycle --config-name cycle
$lgdlm report outputs/cycle
