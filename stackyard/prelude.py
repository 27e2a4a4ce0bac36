"""The lines with which a job brings the pinned Spack: one POSIX shell text, for dash and bash.

Nothing of the stack is written into the text. It goes by five variables:

``SPACK_CHECKOUT_VERSION``           commit of Spack, or a tag or branch
``SPACK_REPO``                       where from; empty: Spack's own repository
``SPACK_PACKAGES_CHECKOUT_VERSION``  commit of the packages; empty: Spack brings what it likes
``SPACK_PACKAGES_REPO``              where from; empty: Spack's own
``STACKYARD_SPACK_DIR``              the folder; empty: ``.spack`` in the project

In the folder there may be a clone already, whole or shallow: then only the difference is fetched,
or nothing. Files that somebody changed in it are put back; files that git does not know stay.
"""

from __future__ import annotations

from stackyard.pins import PACKAGES_REPO, SPACK_REPO

__all__ = ["FOLDER", "PACKAGES", "REPOS_HEAD", "clone_lines", "repos_text"]

#: Inside a clone, and passed over by its git: ours.
FOLDER = ".pinned"
#: Where the packages are, seen from the clone of Spack.
PACKAGES = f"{FOLDER}/packages"

#: The first line of the file that is ours.
REPOS_HEAD = "# Written by stackyard: the packages are here already, at the commit that is pinned."


def repos_text(repo: str, commit: str) -> str:
    """Text of ``etc/spack/repos.yaml``: Spack's packages are in the folder that we put them in.

    Spack merges it with what a manifest says and finds everything fetched, whatever the pin there.
    """
    return (
        f"{REPOS_HEAD}\nrepos:\n  builtin:\n    git: '{repo}'\n    commit: '{commit}'\n"
        f"    destination: '$spack/{PACKAGES}'\n"
    )


# `f() (...)` runs in a subshell: neither variables nor a change of folder get out of it. Nothing
# relies on `set -e`, which is off in every condition. The lock is let go by the end of the
# subshell, so programs that git leaves behind must not inherit it (9>&-). What is refused as
# unknown is not tried again, and only then everything is fetched; a broken repository is made anew,
# without its work tree, which holds installed packages. The ref is what git offers to a server the
# next time: without one, everything would be sent again.
_LINES = r"""
stackyard_say() { printf 'stackyard: %s\n' "$*" >&2; }
stackyard_pin() (
  top=$1 url=$2 want=$3 name=$4 full='' known='' auth='' tries=0
  unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_COMMON_DIR
  export LC_ALL=C GIT_TERMINAL_PROMPT=0 STACKYARD_GIT_URL="$url"
  case $url in http://*@*|https://*@*)
    rest=${url#*://} host=${rest%%/*}
    case $host in *@*) auth=yes url=${url%%://*}://${host##*@}${rest#"$host"} ;; esac ;;
  esac
  case $want in -*|'') stackyard_say "$name: '$want' is no commit, tag or branch"; exit 1 ;; esac
  case $want in *[!0-9a-f]*) ;; *)
    known=yes
    if [ ${#want} -eq 40 ] || [ ${#want} -eq 64 ]; then full=yes; fi ;;
  esac
  g() {
    set -- --git-dir="$top/.git" --work-tree="$top" -c gc.auto=0 -c maintenance.auto=false \
      -c safe.directory="$top" -c core.hooksPath=/dev/null -c advice.detachedHead=false \
      -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=60 "$@"
    if [ -n "$auth" ]; then
      set -- -c credential.helper= \
        -c credential.helper='!f() { printf "url=%s\n" "$STACKYARD_GIT_URL"; }; f' "$@"
    fi
    git "$@" 9>&-
  }
  at() { g rev-parse --verify --quiet "$1^{commit}"; }
  clean() { dirty=$(g status --porcelain --untracked-files=no 2>&1) && [ -z "$dirty" ]; }
  fresh() {
    rm -rf "$top/.git" && git init --quiet --template= "$top" 9>&- >&2 || return 1
    mkdir -p "$top/.git/info" && g config remote.origin.url "$url"
  }
  pull() {
    tries=0
    while :; do
      said=$(g fetch --quiet --force --no-tags --no-recurse-submodules "$@" 2>&1) && return 0
      tries=$((tries + 1))
      case $said in
        *'not our ref'*)
          if GIT_TRACE_PACKET=1 g ls-remote "$url" HEAD 2>&1 | grep -q '< version 2'; then return 1; fi
          return 2 ;;
        *unadvertised*|*'not valid'*|*"find remote ref"*|*'dumb http'*) return 2 ;;
        *corrupt*|*'bad object'*|*'is empty'*|*'missing blob'*|*'missing tree'*) return 3 ;;
        *'not found'*|*denied*|*'Authentication failed'*|*'could not read Username'*) return 1 ;;
      esac
      [ "$tries" -lt 3 ] || return 1
      stackyard_say "$name: no luck, once more in $((tries * 5)) s: $said"
      sleep "$((tries * 5))"
    done
  }
  bring() {
    if [ -n "$full" ] && at "$want" >/dev/null; then commit=$want; return 0; fi
    stackyard_say "$name: fetching $want of $url"
    code=0
    pull --depth=1 "$url" "$want" || code=$?
    if [ "$code" -eq 0 ]; then commit=$(at FETCH_HEAD); return; fi
    [ "$code" -eq 2 ] && [ -n "$known" ] || return "$code"
    stackyard_say "$name: the server does not give a single commit; fetching all branches and tags"
    set -- "$url" '+refs/heads/*:refs/whole/heads/*' '+refs/tags/*:refs/whole/tags/*'
    if [ -s "$top/.git/shallow" ]; then set -- --unshallow "$@"; fi
    code=0
    pull "$@" || code=$?
    [ "$code" -eq 0 ] || return "$code"
    commit=$(at "$want") || { said="no branch and no tag leads to $want"; return 1; }
  }
  place() {
    g update-ref "refs/pins/$commit" "$commit" && g checkout --quiet --force --detach "$commit"
  }
  mkdir -p "$top/@FOLDER@" || exit 1
  if command -v flock >/dev/null 2>&1; then
    exec 9>>"$top/@FOLDER@/lock" && flock 9 || exit 1
    rm -f "$top/.git/index.lock" "$top/.git/shallow.lock" "$top/.git/HEAD.lock" \
      "$top/.git/config.lock"
  fi
  if [ -n "$full" ] && [ -d "$top/.git" ] && [ "$(at HEAD)" = "$want" ] && clean; then exit 0; fi
  if [ ! -d "$top/.git" ] || ! g rev-parse --git-dir >/dev/null 2>&1; then fresh || exit 1; fi
  code=0
  bring && said=$(place 2>&1) && clean || code=$?
  if [ "$code" -ne 0 ] && { [ "$code" -eq 3 ] || [ -n "${commit:-}" ]; }; then
    stackyard_say "$name: the clone is damaged, making it anew: $said"
    code=0
    fresh && bring && said=$(place 2>&1) && clean || code=$?
  fi
  if [ "$code" -ne 0 ]; then
    stackyard_say "$name: cannot bring $want of $url: $said"
    exit 1
  fi
  if [ "$(at HEAD)" != "$commit" ]; then stackyard_say "$name: HEAD is not $commit"; exit 1; fi
  mkdir -p "$top/.git/info" || exit 1
  for line in /@FOLDER@/ /etc/spack/repos.yaml; do
    grep -qxF "$line" "$top/.git/info/exclude" 2>/dev/null ||
      printf '%s\n' "$line" >>"$top/.git/info/exclude" || exit 1
  done
  stackyard_say "$name: $commit"
)
stackyard_repos() (
  file=$1/etc/spack/repos.yaml version=${SPACK_PACKAGES_CHECKOUT_VERSION:-}
  repo=${SPACK_PACKAGES_REPO:-@PACKAGES_REPO@}
  if [ -z "$version" ]; then
    if [ -f "$file" ] && read -r line <"$file" && [ "$line" = '@HEAD@' ]; then rm -f "$file"; fi
    exit 0
  fi
  case $repo in *[\'\\]*) stackyard_say "packages: a quote in SPACK_PACKAGES_REPO"; exit 1 ;; esac
  stackyard_pin "$1/@PACKAGES@" "$repo" "$version" packages || exit 1
  commit=$(git -c safe.directory="$1/@PACKAGES@" --git-dir="$1/@PACKAGES@/.git" rev-parse HEAD) ||
    exit 1
  case $repo in http*://*@*) repo=${repo%%://*}://${repo##*@} ;; esac
  mkdir -p "$1/etc/spack" || exit 1
  set -- "$file" "$repo" "$commit" '@REPOS@'
  printf "$4" "$2" "$3" >"$1.$$" && mv -f "$1.$$" "$1"
)
stackyard_dir=${STACKYARD_SPACK_DIR:-${CI_PROJECT_DIR:-$PWD}/.spack}
case $stackyard_dir in
  /*) ;;
  *) stackyard_dir=$PWD/$stackyard_dir ;;
esac
if [ "${stackyard_dir%/}" = "${CI_PROJECT_DIR:-}" ]; then
  stackyard_say "STACKYARD_SPACK_DIR is the project itself, whose files Spack would replace"
  exit 1
fi
stackyard_pin "$stackyard_dir" "${SPACK_REPO:-@SPACK_REPO@}" "${SPACK_CHECKOUT_VERSION:-}" Spack &&
  stackyard_repos "$stackyard_dir" || exit 1
SPACK_ROOT=$stackyard_dir
export SPACK_ROOT
case $- in
  *u*) set +u; . "$stackyard_dir/share/spack/setup-env.sh"; set -u ;;
  *) . "$stackyard_dir/share/spack/setup-env.sh" ;;
esac
"""


def clone_lines() -> str:
    """The lines. Afterwards the command ``spack`` is the pinned one; or the shell has ended."""
    repos = repos_text("%s", "%s").replace("\n", "\\n").replace("'", "'\\''")
    text = _LINES.strip()
    for mark, value in {
        "@PACKAGES_REPO@": PACKAGES_REPO,
        "@SPACK_REPO@": SPACK_REPO,
        "@PACKAGES@": PACKAGES,
        "@FOLDER@": FOLDER,
        "@HEAD@": REPOS_HEAD,
        "@REPOS@": repos,
    }.items():
        text = text.replace(mark, value)
    return text + "\n"
