from pathlib import Path

import pytest

from client.config import read_site_config
from client.policy import SitePolicy
from medvlmoe.errors import ConfigError

SITE = "name: north\ndataset: {kind: manifest, root: images}\n"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"on_large_update": "shrink"}, "on_large_update"),
        ({"codecs": ["float8"]}, "float8"),
        ({"max_update_norm": {"all": 0.0}}, r"max_update_norm\.all"),
        ({"min_cell": 0}, "min_cell"),
        ({"min_patients": -1}, "min_patients"),
        ({"max_rounds_per_day": 0}, "max_rounds_per_day"),
        ({"max_epsilon": 3.0}, "differential_privacy_required"),
        ({"max_epsilon": 0.0, "differential_privacy_required": True}, "max_epsilon"),
        ({"fab_hashes": ["abc"]}, "SHA-256"),
        ({"hours": ["at night"]}, "at night"),
    ],
)
def test_what_contradicts_itself_is_an_error(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SitePolicy(**keys)  # type: ignore[arg-type]


def test_the_policy_may_be_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE + "policy: rules/policy.yaml\n")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "policy.yaml").write_text("min_patients: 50\nmax_update_norm: {expert.*: 2.5}\n")
    policy = read_site_config(tmp_path / "site.yaml").policy
    assert (policy.min_patients, policy.max_update_norm) == (50, {"expert.*": 2.5})
    (tmp_path / "rules" / "policy.yaml").write_text("min_patient: 50\n")
    with pytest.raises(ConfigError, match="min_patients"):
        read_site_config(tmp_path / "site.yaml")
    (tmp_path / "rules" / "policy.yaml").unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*policy\.yaml"):
        read_site_config(tmp_path / "site.yaml")


def test_a_policy_in_the_sites_file(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE + "policy: {runs: ['chest-*'], codecs: [int8]}\n")
    policy = read_site_config(tmp_path / "site.yaml").policy
    assert (policy.runs, policy.codecs) == (["chest-*"], ["int8"])


def test_without_a_policy_the_installed_code_still_has_to_do_the_work(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    assert read_site_config(tmp_path / "site.yaml").policy.installed_code_only
