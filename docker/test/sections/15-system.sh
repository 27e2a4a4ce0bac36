# shellcheck shell=bash
# What the lock has of the system it was made on: the C library here is not an older one, and of its
# compilers those that are here have the same version. A bare image may do without compilers; others
# than gcc and llvm write their version in ways of their own, of which nothing is concluded.
cat >"$WORK/system.py" <<'END'
import json
import os

with open(os.environ["STACK"] + "/spack.lock") as file:
    specs = json.load(file)["concrete_specs"].values()
for spec in specs:
    attributes = (spec.get("external") or {}).get("extra_attributes") or {}
    programs = [*(attributes.get("compilers") or {}).values()]
    if programs or (spec["name"] == "glibc" and spec.get("external")):
        print(spec["name"], spec["version"], *programs[:1])
END
STACK=$STACK spack python "$WORK/system.py" >"$WORK/system"
library=$(getconf GNU_LIBC_VERSION 2>/dev/null) || library='none of GNU'
drifted=0
while read -r name version program; do
  if [ "$name" = glibc ]; then
    here=$library
    case $library in
      'glibc '*)
        oldest=$(printf '%s\n' "$version" "${library#glibc }" | sort -V | head -n 1)
        if [ "$oldest" = "$version" ]; then verdict=fits; else verdict=older; fi
        ;;
      *) verdict=another ;;
    esac
  elif [ ! -x "$program" ]; then
    here=$program verdict='not in this image'
  else
    says=$("$program" --version 2>&1) || true
    here=${says%%$'\n'*}
    case "$name: ${says//[()]/ } " in
      *[!0-9.]"$version"[!0-9.]*) verdict=same ;;
      gcc:* | llvm:*) verdict=another ;;
      *) verdict='cannot tell' ;;
    esac
  fi
  case $verdict in older | another) drifted=$((drifted + 1)) ;; esac
  printf '%s@%s: %s (%s)\n' "$name" "$version" "$verdict" "$here"
done <"$WORK/system"
if [ "$drifted" -gt 0 ]; then
  # shellcheck disable=SC2034 # tutorial-test.sh says it
  shown='the system that the lock was made on'
  false
fi
