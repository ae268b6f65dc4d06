#!/usr/bin/env bash
# Serves the model that ships with the repository, streams one completion through the client, says where things are and
# keeps serving until Ctrl-C.
set -eu
cd "$(dirname "$0")/.."
model=${MODEL:-deploy/models/tessera-first}
log=$(mktemp)
ready=$(mktemp -u)
mkfifo "$ready"
trap 'rm -f "$log" "$ready"' EXIT

build/bin/tesserad --model "$model" "$@" >"$ready" 2>"$log" &
server=$!
# Ctrl-C and TERM reach the server once, through us; it drains and ends by itself.
trap 'kill -TERM "$server" 2>/dev/null || true' INT TERM
if ! read -r line <"$ready" || [ "${line%% *}" != tesserad ]; then
  cat "$log" >&2
  wait "$server" || exit $?
  exit 1
fi
grpc=${line#*grpc=}; grpc=${grpc%% *}
metrics=${line##*metrics=}

echo "model: $model"
echo "prompt: Once upon a time"
echo
build/bin/tessera generate --server "$grpc" --max-tokens 120 "Once upon a time"
echo
echo "Tessera is serving."
echo "  gRPC API   $grpc   (try: build/bin/tessera chat --server $grpc 'Tell me a story.')"
echo "  metrics    http://$metrics/metrics"
echo "  stop       Ctrl-C"
status=0
wait "$server" || status=$?
# `wait` returns early when a signal arrives: wait for the drain as well.
while kill -0 "$server" 2>/dev/null; do wait "$server" && status=0 || status=$?; done
exit "$status"
