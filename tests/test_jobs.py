"""What settings add to jobs: lines that really run, in every shell that a runner may have."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, Stackyard
from locks import document
from pipelines import jobs_of, load

from stackyard.jobs import AWS_TOKEN, NOTHING, aws_after, aws_lines, make_extras, section
from stackyard.prelude import clone_lines
from stackyard.settings import Aws, Jobs

CHAIN = document({"app": ["lib"], "lib": []})
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
ROLE = "arn:aws:iam::123456789012:role/it's mine"
TOKEN = "token-0123456789"


def shell(name: str, script: str, folder: Path, **env: str) -> str:
    """What the script prints, as a runner runs it: it ends with the first command that fails."""
    argv = [name, "sh"] if name == "busybox" else [name]
    done = subprocess.run(
        [*argv, "-eu"],
        input=script.encode(),
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "CI_JOB_ID": "42", **env},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("name", SHELLS)
def test_the_token_goes_into_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    lines = aws_lines(Aws(ROLE, region="eu-west-1"), {"": ROLE})
    told = [
        'printf "%s\\n" "$AWS_ROLE_ARN" "$AWS_WEB_IDENTITY_TOKEN_FILE" "$AWS_DEFAULT_REGION"',
        f'env | grep -c "^{AWS_TOKEN}=" || true',
    ]
    script = "\n".join((*lines, *told))
    env = {AWS_TOKEN: TOKEN, "CI_PROJECT_ID": "7"}
    role, file, region, exported = shell(name, script, tmp_path, **env).splitlines()
    assert (role, region, exported) == (ROLE, "eu-west-1", "0")
    assert Path(file).read_text() == TOKEN
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    assert Path(file).parent == tmp_path
    (tmp_path / "aws-token-43.other").touch()
    shell(name, "\n".join(aws_after()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["aws-token-43.other"]


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    ("kind", "role"), [("", "a"), ("spack_pull_request", "b"), ("spack_protected_branch", "a")]
)
def test_a_role_for_each_kind_of_pipeline(name: str, kind: str, role: str, tmp_path: Path) -> None:
    lines = aws_lines(Aws("a"), {"": "a", "spack_pull_request": "b"})
    env = {AWS_TOKEN: TOKEN, **({"SPACK_PIPELINE_TYPE": kind} if kind else {})}
    assert shell(name, "\n".join((*lines, "echo $AWS_ROLE_ARN")), tmp_path, **env) == f"{role}\n"


def test_without_a_token_the_job_ends(tmp_path: Path) -> None:
    """A GitLab that knows no ID tokens: better here than at the first upload, hours later."""
    script = "\n".join((*aws_lines(Aws("a"), {"": "a"}), "echo on"))
    done = subprocess.run(
        ["sh", "-eu"], input=script, env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout == ""
    assert AWS_TOKEN in done.stderr


@pytest.mark.parametrize("name", SHELLS)
def test_sections_as_gitlab_reads_them(name: str, tmp_path: Path) -> None:
    start, end = section("a_name", "it's a title", collapsed=True)
    said = shell(name, f"{start}\necho inside\n{end}", tmp_path)
    head, inside, tail, _ = said.split("\n")
    mark, title = head.split("\r")
    assert mark.startswith("\x1b[0Ksection_start:")
    assert mark.endswith(":a_name[collapsed=true]")
    assert title == "\x1b[0Kit's a title"
    assert inside == "inside"
    assert tail.startswith("\x1b[0Ksection_end:")
    assert tail.endswith(":a_name\r\x1b[0K")
    assert mark.split(":")[1].isdigit()


def test_nothing_is_added_where_nothing_is_asked() -> None:
    assert make_extras(Jobs()) == NOTHING
    assert NOTHING.around({"script": ["x"]}) == {"script": ["x"]}
    assert NOTHING.folded("a", "A", ["x"]) == ["x"]


def test_the_clone_comes_first_and_folded() -> None:
    aws = Aws("a")
    extras = make_extras(Jobs(clone=True, sections=True, aws=aws), clone="bring\n", unsigned=True)
    job = extras.around({"before_script": [["theirs"]], "after_script": ["last"]})
    first, second, *_ = job["before_script"]
    start, brought, end = first.split("\n")
    assert brought == "bring"
    assert "section_start" in start
    assert "section_end" in end
    assert second == "unset SPACK_SIGNING_KEY"
    assert job["before_script"][-1] == ["theirs"]
    assert job["after_script"] == [*aws_after(), "last"]
    assert job["id_tokens"] == {AWS_TOKEN: {"aud": "$CI_SERVER_URL"}}
    own = {"id_tokens": {"MINE": {"aud": "x"}}}
    assert set(extras.around(own)["id_tokens"]) == {"MINE", AWS_TOKEN}


# -- in a pipeline --------------------------------------------------------------------------


def child(project: Project, stackyard: Stackyard, **more: Any) -> dict[str, Any]:
    project.stack(CHAIN, **more)
    stackyard("generate", "--stack", "demo", "--no-prune")
    return load(project.child.read_bytes())


CI = {
    "pipeline-gen": [
        {"any-job": {"tags": ["spack"], "before_script": ["first"]}},
        {"signing-job": {"script": ["sign"]}},
    ],
    "temporary-storage-url-prefix": "s3://example/tmp",
}


def test_every_job_that_uses_spack_brings_it(
    project: Project, stackyard: Stackyard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACK_PIPELINE_TYPE", "spack_protected_branch")
    packages = {"packages_repo": "https://example.org/p.git", "packages_ref": "b" * 40}
    settings = {"jobs": {"clone": True}, "spack": {"checkout_version": "a" * 40, **packages}}
    made = child(project, stackyard, ci=CI, settings=settings)
    jobs = jobs_of(made)
    assert len(jobs) == 5
    for job in jobs.values():
        assert job["before_script"] == [clone_lines().rstrip(), "first"]
    assert project.child.read_text().count("stackyard_pin()") == 1  # not once for each group
    wanted = {
        "SPACK_REPO": "https://github.com/spack/spack.git",
        "SPACK_CHECKOUT_VERSION": "a" * 40,
        "SPACK_PACKAGES_REPO": "https://example.org/p.git",
        "SPACK_PACKAGES_CHECKOUT_VERSION": "b" * 40,
    }
    assert made["variables"] | wanted == made["variables"]


def test_the_job_that_only_says_so_brings_nothing(project: Project, stackyard: Stackyard) -> None:
    made = child(
        project,
        stackyard,
        packages={},
        settings={"jobs": {"clone": True, "aws": {"role": "a"}}},
    )
    assert "id_tokens" in jobs_of(made)["rebuild-index"]
    project.stack(document({}), settings={"jobs": {"clone": True, "aws": {"role": "a"}}})
    stackyard("generate", "--stack", "demo", "--no-prune")
    (job,) = jobs_of(load(project.child.read_bytes())).values()
    assert "id_tokens" not in job
    assert "before_script" not in job


def test_results_of_tests_are_reports(project: Project, stackyard: Stackyard) -> None:
    made = child(project, stackyard, settings={"jobs": {"junit": True}})
    job = next(job for name, job in jobs_of(made).items() if name.startswith("app@"))
    assert job["script"][-1] == "spack ci rebuild --tests"
    assert job["artifacts"]["reports"] == {"junit": ["jobs_scratch_dir/tests/ci-test-results.xml"]}
    assert len(job["artifacts"]["paths"]) == 4


def test_own_reports_and_scripts_stay(project: Project, stackyard: Stackyard) -> None:
    own = {"script:": ["mine"], "artifacts": {"reports": {"junit": ["mine.xml"]}}}
    ci = {"pipeline-gen": [{"build-job": own}]}
    made = child(project, stackyard, ci=ci, settings={"jobs": {"junit": True, "sections": True}})
    job = next(job for name, job in jobs_of(made).items() if name.startswith("app@"))
    assert len(job["script"]) == 3
    assert job["script"][1] == "mine"
    assert "mine.xml" in job["artifacts"]["reports"]["junit"]


def test_the_index_is_ours_where_settings_say_so(project: Project, stackyard: Stackyard) -> None:
    mirror = "s3://example-binaries/it is"
    settings = {"index": "stackyard", "generate": {"requirement": "stackyard @ https://x"}}
    made = child(project, stackyard, mirror=mirror, settings=settings)
    assert jobs_of(made)["rebuild-index"]["script"] == [
        (
            "command -v stackyard > /dev/null || "
            "python3 -m pip install --quiet 'stackyard @ https://x'"
        ),
        "stackyard mirror.index --url 's3://example-binaries/it is'",
    ]
    (project.root / "stacks/demo/stack.yaml").unlink()
    plain = child(project, stackyard)
    (line,) = jobs_of(plain)["rebuild-index"]["script"]
    assert line == "spack buildcache update-index --keys s3://example-binaries/demo"


def test_an_own_reindex_script_stays_with_the_fix(project: Project, stackyard: Stackyard) -> None:
    ci = {"pipeline-gen": [{"reindex-job": {"script:": ["mine {index_target_mirror}"]}}]}
    settings = {"index": "stackyard", "fix": ["reindex-script"]}
    made = child(project, stackyard, ci=ci, settings=settings)
    assert jobs_of(made)["rebuild-index"]["script"][-1] == "mine s3://example-binaries/demo"


@pytest.mark.parametrize(
    ("kind", "reserved"),
    [("spack_pull_request", "public"), ("spack_protected_branch", "protected")],
)
def test_runners_of_others_do_without_reserved_tags(
    project: Project,
    stackyard: Stackyard,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    reserved: str,
) -> None:
    """GitLab.com's own runners have none of Spack's tags: a job that wants them waits for ever."""
    monkeypatch.setenv("SPACK_PIPELINE_TYPE", kind)
    ci = {"pipeline-gen": [{"signing-job": {"script": ["sign"]}}]}
    jobs = jobs_of(child(project, stackyard, ci=ci))
    assert [job["tags"] for name, job in jobs.items() if "@" in name] == [[reserved]] * 2
    made = child(project, stackyard, ci=ci, settings={"jobs": {"reserved_tags": False}})
    for job in jobs_of(made).values():
        assert not job.get("tags")
    if "sign-pkgs" in jobs:
        assert jobs["sign-pkgs"]["tags"] == ["aws", "protected", "notary"]
    own = {"pipeline-gen": [{"any-job": {"tags": ["docker"]}}]}
    made = child(project, stackyard, ci=own)
    assert [job["tags"] for job in jobs_of(made).values()] == [["docker"]] * 3


def test_an_audience_and_a_role_are_needed(stackyard: Stackyard, project: Project) -> None:
    project.stack(CHAIN, settings={"jobs": {"aws": {"region": "x"}}})
    answer = stackyard("generate", "--stack", "demo", code=2)
    assert "stacks/demo/stack.yaml: jobs.aws.role: is missing" in answer.err
