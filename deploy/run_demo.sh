#!/usr/bin/env bash
# Serves the shipped model, streams one completion through the client, prints the addresses, and serves until Ctrl-C.
set -eu
cd "$(dirname "$0")/.."
model=${MODEL:-deploy/models/tessera-base}
log=$(mktemp)
ready=$(mktemp -u)
mkfifo "$ready"
server=
signalled=

# Waits for the server and returns its exit status, even if signals interrupt the wait.
wait_for_server() {
  local interrupts status
  while :; do
    interrupts=$signalled
    status=0
    wait "$server" || status=$?
    if [ "$signalled" = "$interrupts" ] || [ "$status" -le 128 ]; then return "$status"; fi
  done
}

# Ends the server when this script ends. The trap has already sent SIGTERM if a signal ended the script; a second SIGTERM
# would cancel the calls that the server drains.
finish() {
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    [ -n "$signalled" ] || kill -TERM "$server" 2>/dev/null || true
    wait_for_server || true
  fi
  rm -f "$log" "$ready"
}
trap finish EXIT
trap 'signalled+=x; [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true' INT TERM HUP

# The server runs in a session of its own, so that Ctrl-C in the terminal reaches it only once, through this script.
setsid build/bin/tesserad --model "$model" "$@" >"$ready" 2>"$log" &
server=$!
if ! read -r line <"$ready" || [ "${line%% *}" != tesserad ]; then
  cat "$log" >&2
  wait_for_server || exit $?
  [ -n "$signalled" ] && exit 0 || exit 1
fi
grpc=${line#*grpc=}; grpc=${grpc%% *}
metrics=${line##*metrics=}

echo "model: $model"
echo "prompt: Once upon a time"
echo
build/bin/tessera generate --server "$grpc" --max-tokens 120 "Once upon a time" || {
  status=$?
  [ -n "$signalled" ] || exit "$status"
}
if [ -z "$signalled" ]; then
  echo
  echo "Tessera is serving."
  echo "  gRPC API   $grpc   (try: build/bin/tessera chat --server $grpc 'Tell me a story.')"
  echo "  metrics    http://$metrics/metrics"
  echo "  stop       Ctrl-C"
fi
status=0
wait_for_server || status=$?
exit "$status"
