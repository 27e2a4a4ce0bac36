# shellcheck shell=bash disable=SC2154 # tutorial-test.sh sets hashes and names
# The whole stack as an environment: as it is locked, it needs no solver and no other mirror.
mkdir -- "$WORK/environment"
cp -- "$STACK/spack.yaml" "$STACK/spack.lock" "$WORK/environment/"
# Mirrors, pipelines and repositories of those who build the stack are nobody's business here.
cat >"$WORK/plain.py" <<'END'
import os

import spack.util.spack_yaml as syaml

with open(os.environ["MANIFEST"]) as file:
    manifest = syaml.load(file)
for key in ("ci", "gitlab-ci", "cdash", "mirrors", "repos", "include"):
    manifest["spack"].pop(key, None)
with open(os.environ["MANIFEST"], "w") as file:
    syaml.dump(manifest, stream=file)
END
MANIFEST=$WORK/environment/spack.yaml spack python "$WORK/plain.py"
step spack -e "$WORK/environment" find | expect "${names[0]}"
step spack -e "$WORK/environment" install --cache-only --only-concrete
step spack env activate "$WORK/environment"
step spack env status
step spack env deactivate
