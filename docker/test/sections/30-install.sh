# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# The roots can be installed from the mirror alone: nothing is built.
for hash in "${hashes[@]}"; do
  step spack install --cache-only "/$hash"
done
step spack find --very-long >"$WORK/found"
for hash in "${hashes[@]}"; do
  expect "$hash" <"$WORK/found"
done
printf 'all %d roots are installed\n' "${#hashes[@]}"
