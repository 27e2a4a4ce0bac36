# shellcheck shell=bash
# What a build rule of Docker Hub and docker/args say; the hooks beside this file source it. It sets
#
#   root        the project, which is the build context whatever the rule's is
#   dockerfile  the one that the rule names
#   names       all names of the image: each tag of the rule, and that of a release
#   version     the release, else the first tag
#   stack       which stack, and the lines NAME=VALUE for it in `arguments`
#
# Only bash and git are needed, and nothing that stands in a file or in a variable is evaluated.

fail() { # what is wrong, what to do next
  printf 'error: %s\n  hint: %s\n' "$1" "$2" >&2
  exit 2
}

hooks=.
case ${BASH_SOURCE[0]} in */*) hooks=${BASH_SOURCE[0]%/*} ;; esac
hooks=$(CDPATH='' cd -P -- "$hooks" && pwd -P)

find_root() { # the nearest folder that has this, from the hooks up
  local folder=$hooks
  while [ -n "$folder" ]; do
    if [ -e "$folder/$1" ]; then
      root=$folder
      return
    fi
    folder=${folder%/*}
  done
  return 1
}

root=
find_root invoke.yaml || find_root stacks ||
  fail "no invoke.yaml and no stacks/ above $hooks" "the hooks belong into docker/hooks/ of a project"

# Docker Hub finds hooks beside the Dockerfile, so that it is beside them. A rule may name its folder.
dockerfile=${DOCKERFILE_PATH:-}
dockerfile=${dockerfile%/}
dockerfile=${dockerfile##*/}
folder=${hooks%/*}
case $dockerfile in '' | . | "${folder##*/}") dockerfile=Dockerfile ;; esac
dockerfile=$folder/$dockerfile
[ -f "$dockerfile" ] || fail "there is no $dockerfile" "what does the rule name as the Dockerfile?"

# -- the generated file -------------------------------------------------------------------------

prefix=rev-
stacks=()    # that have an image
arguments=() # of the stack that read_arguments was asked for

read_arguments() {
  local line section=
  stacks=()
  arguments=()
  [ -f "$root/docker/args" ] || return 0
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%$'\r'}
    case $line in
      '' | '#'*) ;;
      '['*']')
        section=${line#'['}
        section=${section%']'}
        stacks+=("$section")
        ;;
      [A-Z]*=*)
        if [ -z "$section" ]; then
          [ "${line%%=*}" != RELEASE_PREFIX ] || prefix=${line#*=}
        elif [ "$section" = "${1:-}" ]; then
          arguments+=("$line")
        fi
        ;;
      *) fail "docker/args has a line that is none of ours: $line" "run: invoke generate" ;;
    esac
  done <"$root/docker/args"
}

# -- the stack ----------------------------------------------------------------------------------

locked() { # the stacks that have a lock
  local lock
  for lock in "$root"/stacks/*/spack.lock; do
    [ -f "$lock" ] || continue
    lock=${lock%/spack.lock}
    printf '%s\n' "${lock##*/}"
  done
}

choose_stack() {
  local found
  if [ -z "${STACK:-}" ]; then
    if [ "${#stacks[@]}" -gt 0 ]; then
      found=$(printf '%s\n' "${stacks[@]}")
    else
      found=$(locked)
    fi
    [ -n "$found" ] || fail "no stack has a spack.lock" "run: invoke lock, and commit what it writes"
    case $found in
      *$'\n'*)
        fail "which stack? there are: ${found//$'\n'/, }" \
          "set STACK in the build environment variables"
        ;;
    esac
    STACK=$found
  fi
  stack=$STACK
  case $stack in
    [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) fail "this cannot be a stack's name: $stack" "look at STACK" ;;
  esac
  if [ ! -f "$root/stacks/$stack/spack.lock" ]; then
    found=$(locked)
    fail "there is no stacks/$stack/spack.lock" "stacks with a lock: ${found//$'\n'/, }"
  fi
}

# -- the tags -----------------------------------------------------------------------------------

add_tag() { # a tag, and where it is from
  local name tag=$1
  tag=${tag#"${tag%%[![:space:]]*}"}
  tag=${tag%"${tag##*[![:space:]]}"}
  [ -n "$tag" ] || return 0
  case $tag in
    [.-]* | *[!A-Za-z0-9_.-]*) fail "this cannot be a tag: $tag" "look at $2" ;;
  esac
  [ "${#tag}" -le 128 ] || fail "longer than 128 characters, which no tag may be: $tag" "shorten it"
  : "${version:=$tag}"
  name=$DOCKER_REPO:$tag
  case " ${names[*]-} " in *" $name "*) ;; *) names+=("$name") ;; esac
}

read_tags() {
  local tag rest=${DOCKER_TAG:-}
  if [ -z "${DOCKER_REPO:-}" ]; then
    fail "DOCKER_REPO is not set" "Docker Hub sets it; elsewhere run: stackyard image.autobuild"
  fi
  case $DOCKER_REPO in
    *[!A-Za-z0-9._/:-]*) fail "this is no repository: $DOCKER_REPO" "look at DOCKER_REPO" ;;
  esac
  names=()
  version=
  while [ -n "$rest" ]; do
    tag=${rest%%,*}
    rest=${rest#"$tag"}
    rest=${rest#,}
    add_tag "$tag" "the rule's Docker tag"
  done
  if [ "${#names[@]}" -eq 0 ]; then
    case ${IMAGE_NAME:-} in
      "$DOCKER_REPO":*) add_tag "${IMAGE_NAME#"$DOCKER_REPO":}" IMAGE_NAME ;;
      *) add_tag latest "" ;;
    esac
  fi
  [ -n "$prefix" ] || return 0
  case ${SOURCE_BRANCH:-} in
    "$prefix"?*)
      version=${SOURCE_BRANCH#"$prefix"}
      add_tag "$version" "SOURCE_BRANCH, $SOURCE_BRANCH: what follows $prefix is the release's tag"
      ;;
  esac
}

read_arguments
choose_stack
read_arguments "$stack"
if [ "${#stacks[@]}" -gt 0 ]; then
  case " ${stacks[*]} " in
    *" $stack "*) ;;
    *) fail "the stack $stack has no image" "set image.base for it, and run: invoke generate" ;;
  esac
fi
read_tags
