# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# New environments take what the mirror has, instead of building it.
# needs: solver
step spack env create --dir "$WORK/new"
step spack -e "$WORK/new" add "${names[0]}"
step spack -e "$WORK/new" concretize --reuse
step spack -e "$WORK/new" install --cache-only
step spack -e "$WORK/new" find | expect "${names[0]}"
