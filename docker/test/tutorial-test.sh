#!/bin/bash
# Does the stack of this image work? Runs commands of Spack's tutorial on it, a section at a time.
#
#   /tutorial/.test/tutorial-test.sh [SECTION...]
#
# The sections are the files in sections/ beside this one, in the order of their names. Whoever names
# some names `keys` too: without it signed binaries are not trusted, and not installed. The first
# command that fails ends the test, and its section is named. A section that needs what is not here
# (a line "# needs: solver", or compiler, gpg, keys) is passed over, and that is said too.
#
# Spack is the one in PATH, else in SPACK_ROOT, else in /opt/spack; it need not be writable, and no
# network is needed. It starts afresh: nothing of the user's configuration or packages is looked at or
# changed. TUTORIAL_REPOS are the package repositories to use, with colons between them; without it,
# those that this Spack knows.
set -euo pipefail

beside=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
stack=${TUTORIAL_STACK:-/usr/share/stack}

fail() { # what is wrong, what to do next
  printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
  exit 1
}

# -- Spack, with nothing of the user's ------------------------------------------------------------

spack=$(type -P spack || true)
for place in "${SPACK_ROOT:-}" /opt/spack "$HOME/spack"; do
  if [ -z "$spack" ] && [ -n "$place" ] && [ -x "$place/bin/spack" ]; then spack=$place/bin/spack; fi
done
[ -n "$spack" ] || fail "there is no Spack here" \
  "clone one to $HOME/spack, or show the container one: --volume CLONE:/opt/spack:ro"
SPACK_ROOT=$(cd -- "$(dirname -- "$(readlink -f -- "$spack")")/.." && pwd -P)
[ -f "$stack/spack.lock" ] || fail "there is no $stack/spack.lock" "is this an image of stackyard's?"

# Short, because sockets of GnuPG lie below it.
work=$(mktemp -d /tmp/tutorial.XXXXXX)
trap 'gpgconf --homedir "$work/gpg" --kill all 2>/dev/null || true; rm -rf -- "$work"' EXIT
mkdir "$work/config" "$work/home"
mkdir -m 700 "$work/gpg"
export SPACK_ROOT HOME=$work/home SPACK_GNUPGHOME=$work/gpg SPACK_COLOR=never
export PYTHONPYCACHEPREFIX=$work/python # else a Spack that is not writable is compiled each time
export SPACK_USER_CONFIG_PATH=$work/config SPACK_USER_CACHE_PATH=$work/cache
cat >"$work/config/config.yaml" <<END
config:
  install_tree: {root: $work/tree}
  source_cache: $work/sources
  build_stage: [$work/stage]
  connect_timeout: 2
END
if [ -n "${TUTORIAL_REPOS:-}" ]; then
  {
    printf '"repos:":\n'
    IFS=: read -r -a repositories <<<"$TUTORIAL_REPOS"
    for repository in "${repositories[@]}"; do
      printf "  %s: '%s'\n" "$(sed -n 's/^ *namespace: *//p' "$repository/repo.yaml" | tr -d "'\"")" \
        "$repository"
    done
  } >"$work/config/repos.yaml"
fi
# It knows commands that work on this shell (`spack load`).
set +u
# shellcheck source=/dev/null
. "$SPACK_ROOT/share/spack/setup-env.sh"
set -u

# -- the stack: hashes and names of its roots -----------------------------------------------------

# One per line: hash, name, version; no root that Spack finds on the system.
cat >"$work/roots.py" <<'END'
import json
import os

with open(os.environ["STACK"] + "/spack.lock") as file:
    lock = json.load(file)
for dag_hash in dict.fromkeys(root["hash"] for root in lock["roots"]):
    spec = lock["concrete_specs"][dag_hash]
    if not spec.get("external"):
        print(dag_hash, spec["name"], spec["version"])
END
STACK=$stack spack python "$work/roots.py" >"$work/roots"
mapfile -t hashes < <(cut -d ' ' -f 1 "$work/roots")
# shellcheck disable=SC2034 # sections use it
mapfile -t names < <(cut -d ' ' -f 2 "$work/roots")
[ "${#hashes[@]}" -gt 0 ] || fail "$stack/spack.lock has no roots" "which stack is this?"
export WORK=$work STACK=$stack

lacks() { # what a section needs and is not here
  case $1 in
    gpg) ! command -v gpg2 >/dev/null && ! command -v gpg >/dev/null ;;
    keys) [ ! -s /mirror/public.key ] ;;
    solver) ! spack python -c 'import clingo' >/dev/null 2>&1 ;;
    # Its solver wants one, even where nothing is compiled.
    compiler) ! spack compiler list 2>/dev/null | grep '@' >/dev/null ;;
    *) fail "nobody knows what '$1' is, which a section needs" "one of gpg, keys, solver, compiler" ;;
  esac
}

# -- the sections ---------------------------------------------------------------------------------

run_section() { # in a shell of its own, which stops at the first command that fails
  (
    set -euo pipefail
    shown='' # the command that runs
    trap '[ "$?" -eq 0 ] || printf "failed: %s\n" "${shown:-${1##*/}}" >&2' EXIT
    cd -- "$HOME"
    # shellcheck source=/dev/null
    . "$1"
  )
}

# What sections show of what they do.
step() { # run a command after showing it
  shown=$*
  printf '$ %s\n' "$shown" >&2
  "$@"
}
expect() { # a word that standard input must have
  local text
  text=$(cat)
  case $text in
    *"$1"*) ;;
    *)
      printf '%s\n' "$text" | tail -n 20
      printf 'nothing above says: %s\n' "$1" >&2
      return 1
      ;;
  esac
}

wanted=("$@")
passed=0 omitted=0
for file in "$beside"/sections/*.sh; do
  section=$(basename -- "$file" .sh)
  if [ "${#wanted[@]}" -gt 0 ]; then
    case " ${wanted[*]} " in *" $section "* | *" ${section#*-} "*) ;; *) continue ;; esac
  fi
  printf '\n== %s\n' "$section"
  missing=
  while read -r need; do
    if lacks "$need"; then missing="${missing:+$missing, }$need"; fi
  done < <(sed -n 's/^# needs: *//p' "$file" | tr -s ', ' '\n')
  if [ -n "$missing" ]; then
    printf 'omitted: it needs what is not here: %s\n' "$missing"
    omitted=$((omitted + 1))
    continue
  fi
  set +e
  run_section "$file"
  code=$?
  set -e
  if [ "$code" -ne 0 ]; then
    printf '\nerror: the section %s failed\n' "$section" >&2
    exit 1
  fi
  passed=$((passed + 1))
done
[ "$((passed + omitted))" -gt 0 ] || fail "no section is called ${wanted[*]}" "look into $beside/sections"
printf '\n%d sections passed' "$passed"
if [ "$omitted" -gt 0 ]; then printf ', %d omitted' "$omitted"; fi
printf '\n'
