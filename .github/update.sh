# Takes a newer heartbeat into this copy: sh .github/update.sh
# Changes files and packages, and commits nothing. Exit code 1: it failed, or there are conflicts.
set -eu
heartbeat=${HEARTBEAT:-https://github.com/your-team/heartbeat}
highest() { printf '%s\n' "$@" | sort -V | tail -n 1; }

if ! git diff --quiet HEAD; then
  echo 'Commit your work first, because the new version changes files that you edited.' >&2
  exit 1
fi

# The first comment of main.ts names the version of this copy. The newest is the highest tag.
git fetch --quiet --no-tags "$heartbeat" '+refs/tags/*:refs/heartbeat/*'
old=$(sed -n 's/.*heartbeat \([0-9.]*\): .*/\1/p' main.ts)
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
echo "heartbeat $old to $new"

# Files: left out is what this copy removed, and what is new and belongs to npm where it has none.
files=
for file in $(git diff --name-only "refs/heartbeat/v$old" "refs/heartbeat/v$new" -- \
  main.ts Dockerfile .dockerignore exec.cmd tools .github/update.sh); do
  if ! [ -f "$file" ]; then
    if git cat-file -e "refs/heartbeat/v$old:$file" 2>/dev/null; then continue; fi
    if ! [ -f package.json ]; then continue; fi
  fi
  files="$files $file"
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
  echo "Resolve the conflicts, which docs/copy.md says how to do. Then: $install" >&2
  exit 1
fi
$install
