# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# The mirror in the image is known to Spack, and Spack sees every root in it.
step spack --version
step spack mirror list | expect file:///mirror
step spack buildcache list --allarch --very-long >"$WORK/listed"
for hash in "${hashes[@]}"; do
  expect "$hash" <"$WORK/listed"
done
printf 'all %d roots are on the mirror\n' "${#hashes[@]}"
