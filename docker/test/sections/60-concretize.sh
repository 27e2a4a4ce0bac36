# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# New environments take what the mirror has, instead of building it.
# needs: solver, compiler
# Where nothing is installed, what is reused can be from the mirror alone.
fresh() { step spack -c "config:install_tree:root:$WORK/fresh" -e "$WORK/new" "$@"; }
step spack env create --without-view --dir "$WORK/new"
fresh add "${names[0]}"
fresh concretize --reuse
fresh install --cache-only
fresh find | expect "${names[0]}"
