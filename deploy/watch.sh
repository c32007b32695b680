#!/bin/sh
# Posts an alert to $WEBHOOK, as {"text":"…"}, for each container that turns unhealthy, that its
# probe ends (exit code 142), and that is healthy again. Needs docker and curl. Its arguments choose
# the containers:
#
#     WEBHOOK=https://hooks.example.com/… sh deploy/watch.sh --filter label=com.docker.compose.project=shop
set -u

say() { printf '%s\n' "$1" >&2; }

[ -n "${WEBHOOK:-}" ] || { say 'Cannot watch: set WEBHOOK to the address that takes the alerts'; exit 1; }
# One file for each container whose alert was posted, and one with its RestartCount.
seen=$(mktemp -d) || exit 1
mkfifo "$seen/events" || exit 1
events=
trap 'kill $events 2>/dev/null; rm -rf "$seen"' EXIT
trap 'exit 0' INT TERM

# post NAME NEWS: a webhook that is down costs a line on standard error and half a minute at the
# most.
post() {
  failure=$(curl --silent --show-error --fail --output /dev/null --max-time 5 --retry 3 --retry-all-errors \
    --header 'Content-Type: application/json' --data "{\"text\":\"$1 $2\"}" "$WEBHOOK" 2>&1) ||
    say "Cannot post \"$1 $2\": $(echo "$failure" | head -n 1)"
}

# alert ID NAME NEWS: posts what was not posted before.
alert() {
  [ "$(cat "$seen/$1" 2>/dev/null)" = "$3" ] && return
  echo "$3" >"$seen/$1"
  post "$2" "$3"
}

# recovered ID NAME: worth a word only after an alert.
recovered() {
  [ -e "$seen/$1" ] || return
  rm "$seen/$1"
  post "$2" 'is healthy again'
}

unhealthy='is unhealthy'
ended='was ended by its probe (exit code 142)'

# follow OPTION…: reads events until the connection ends. A container's name cannot break the JSON,
# nor can its id.
follow() {
  docker events "$@" --filter type=container --filter event=die \
    --filter 'event=health_status: unhealthy' --filter 'event=health_status: healthy' \
    --format '{{.TimeNano}} {{.Actor.ID}} {{.Actor.Attributes.name}} {{.Action}}{{with .Actor.Attributes.exitCode}} {{.}}{{end}}' \
    >"$seen/events" 2>/dev/null &
  events=$!
  while read -r nanoseconds id name event; do
    since=${nanoseconds%?????????}.${nanoseconds#"${nanoseconds%?????????}"}
    case $event in
      'health_status: unhealthy') alert "$id" "$name" "$unhealthy" ;;
      'health_status: healthy') recovered "$id" "$name" ;;
      'die 142') alert "$id" "$name" "$ended" ;;
    esac
    case $event in
      die*) docker inspect --format '{{.RestartCount}}' "$id" >"$seen/$id.restarts" 2>/dev/null ;;
    esac
  done <"$seen/events"
  wait "$events"
}

# present OPTION…: alerts of what the events did not tell: they are kept in the daemon's memory, and
# only 256 of them.
present() {
  docker ps --all --quiet "$@" 2>/dev/null | xargs docker inspect --format \
    '{{.Id}} {{slice .Name 1}} {{.RestartCount}} {{.State.ExitCode}} {{with .State.Health}}{{.Status}}{{end}}' \
    >"$seen/present" 2>/dev/null
  while read -r id name restarts code health; do
    before=$(cat "$seen/$id.restarts" 2>/dev/null)
    echo "$restarts" >"$seen/$id.restarts"
    [ "$restarts" -gt "${before:-$restarts}" ] && post "$name" "was restarted unseen (RestartCount $restarts)"
    case $code,$health in
      142,*) alert "$id" "$name" "$ended" ;;
      *,unhealthy) alert "$id" "$name" "$unhealthy" ;;
      *,healthy) recovered "$id" "$name" ;;
    esac
  done <"$seen/present"
}

since=
lost=
while :; do
  now=$(docker info --format '{{.SystemTime}}' 2>/dev/null) # empty, and no failure, when no daemon answers
  if [ -n "$now" ]; then
    lost=
    [ -z "$since" ] || follow "$@" --since "$since" --until "$now"
    present "$@"
    since=$now
    follow "$@" --since "$now"
  fi
  [ -n "$lost" ] || say 'Cannot read the events of the Docker daemon: trying again every second'
  lost=yes
  sleep 1
done
