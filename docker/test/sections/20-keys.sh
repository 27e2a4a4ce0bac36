# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# The keys that signed the binaries can be trusted: from the file, and from the mirror.
# needs: gpg, keys
step spack gpg trust /mirror/public.key
step spack gpg list --trusted >"$WORK/trusted"
grep -E '[0-9A-F]{16}' "$WORK/trusted"
step spack buildcache keys --install --trust
