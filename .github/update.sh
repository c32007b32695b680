# Takes a newer heartbeat into this copy: sh .github/update.sh
# Changes files and packages, and commits nothing. Exit code 1: it failed, or there are conflicts.
# HEARTBEAT names another repository to take it from.
set -eu
heartbeat=${HEARTBEAT:-https://github.com/your-team/heartbeat}
highest() { printf '%s\n' "$@" | sort -V | tail -n 1; }

if ! git diff --quiet HEAD; then
  echo 'Commit your work first, because the new version changes files that you edited.' >&2
  exit 1
fi

# The first comment of main.ts names the version of this copy. The newest is the highest tag.
git fetch --quiet --no-tags "$heartbeat" '+refs/tags/*:refs/heartbeat/*'
old=$(sed -n '/heartbeat [0-9.]*: /{s/.*heartbeat \([0-9.]*\): .*/\1/p;q;}' main.ts)
new=$(git for-each-ref --format='%(refname:lstrip=2)' refs/heartbeat |
  sed -n 's/^v\([0-9]*\.[0-9]*\.[0-9]*\)$/\1/p' | sort -V | tail -n 1)
if [ -z "$old" ]; then
  echo 'No comment of main.ts names the version of heartbeat that it is.' >&2
  exit 1
fi
if [ "$(highest "$old" "$new")" = "$old" ]; then
  echo "heartbeat $old is the newest"
  exit 0
fi
# The newest version's script does the rest, because it knows which files are ours.
if [ "${1:-}" != "$new" ]; then
  script=$(git show "refs/heartbeat/v$new:.github/update.sh")
  exec sh -c "$script" update.sh "$new"
fi
echo "heartbeat $old to $new"
echo "What it changes for you: git show refs/heartbeat/v$new:CHANGELOG.md"

# The manifest of the runtime that a file belongs to; main.ts for the files of both.
manifest_of() {
  case $1 in
    tools/* | exec.cmd) echo package.json ;;
    test-deadline.ts) echo deno.json ;;
    *) echo main.ts ;;
  esac
}

# Files, without what this copy removed, and without new ones of a runtime that it does not have.
files=
for file in $(git diff --name-only "refs/heartbeat/v$old" "refs/heartbeat/v$new" -- main.ts \
  Dockerfile .dockerignore tools exec.cmd test-deadline.ts .github/update.sh); do
  if [ ! -f "$file" ] && git cat-file -e "refs/heartbeat/v$old:$file" 2>/dev/null; then
    echo "Left out: $file, because you removed it"
  elif [ ! -f "$file" ] && [ ! -f "$(manifest_of "$file")" ]; then
    echo "Left out: $file, because you have no $(manifest_of "$file")"
  else
    files="$files $file"
  fi
done
applied=yes
git diff --binary "refs/heartbeat/v$old" "refs/heartbeat/v$new" -- $files |
  git apply --3way || applied=no
if [ $applied = no ] && [ -z "$(git ls-files --unmerged)" ]; then
  exit 1 # git said why, and changed nothing
fi

# Packages: the new version's, or yours where it is higher.
manifest=package.json
install='npm install'
prefix=
if ! [ -f package.json ]; then
  manifest=deno.json
  install='deno add --save-exact'
  prefix=npm:
fi
for package in $(git show "refs/heartbeat/v$new:package.json" |
  sed -n '/"dependencies": {/,/}/s/^ *"\(.*\)": "\(.*\)".*/\1@\2/p'); do
  name=${package%@*}
  yours=$(sed -n "s|^ *\"$name\": \"[^0-9]*\([0-9][^\"]*\)\".*|\1|p" $manifest)
  install="$install $prefix$name@$(highest "$yours" "${package##*@}")"
done
if [ $applied = no ]; then
  echo "Resolve the conflicts as docs/copy.md says. Then: $install" >&2
  exit 1
fi
$install
