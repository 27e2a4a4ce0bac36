# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# What the tutorial does with installed packages: look at them, load one, remove one, take it back.
first=/${hashes[0]} name=${names[0]}
step spack find --paths "$first" | expect "$name"
step spack find --deps --very-long "$first" | expect "${hashes[0]}"
step spack find --variants --show-flags "$name" | expect "$name"
prefix=$(spack location --install-dir "$first")
step test -d "$prefix/.spack"
step spack load "$first"
step spack find --loaded | expect "$name"
step spack unload "$first"
step spack dependencies --installed --transitive "$first"
step spack uninstall --yes-to-all --dependents "$first"
step test ! -d "$prefix"
step spack install --cache-only "$first"
step test -d "$prefix/.spack"
