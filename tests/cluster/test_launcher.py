"""The launcher's files, as Ray itself reads them before it asks a cloud for anything."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
CLOUDS = ("aws", "gcp")


def load(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{cloud}.yaml").read_text())


def prepared(cloud: str) -> dict[str, Any]:
    """As `ray up` fills it in."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(load(cloud))


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    types = config["available_node_types"]
    return {name: types[name] for name in types if name != config["head_node_type"]}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared(cloud))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_works_on_the_head_and_workers_come_only_when_asked_for(cloud: str) -> None:
    config = prepared(cloud)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert all(each["min_workers"] == 0 < each["max_workers"] for each in workers(config).values())
    assert sum(each["max_workers"] for each in workers(config).values()) <= config["max_workers"]
    assert [name for name, each in workers(config).items() if "GPU" in each["resources"]] == ["gpu"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_is_copied_from_this_machine_and_no_key_is_in_the_file(cloud: str) -> None:
    config = prepared(cloud)
    assert config["file_mounts"] == {} and not config["cluster_synced_files"]
    assert not config["setup_commands"] and not config["head_setup_commands"]
    assert "ssh_private_key" not in config["auth"] and "gcp_credentials" not in config["provider"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_dashboard_is_on_loopback_and_every_container_has_the_token(cloud: str) -> None:
    config = load(cloud)
    (start_head,) = [line for line in config["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start_head
    assert "RAY_AUTH_MODE=token" in config["initialization_commands"][0]
    assert "> ~/.ray/environment" in config["initialization_commands"][0]
    assert "--env-file $HOME/.ray/environment" in config["docker"]["run_options"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_commands_are_shell_and_what_they_run_is_in_the_image(cloud: str) -> None:
    config = load(cloud)
    commands = [
        *config["initialization_commands"],
        *config["head_start_ray_commands"],
        *config["worker_start_ray_commands"],
    ]
    done = subprocess.run(
        ["bash", "-n", "-c", "\n".join(commands)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"/opt/forebrain/cluster/leave.py --address $RAY_HEAD_IP:6379 --watch {cloud}" in commands[-1]
    assert (CLUSTER / "leave.py").is_file()


def test_ec2_knows_every_field_of_a_machine() -> None:
    import botocore.session
    from botocore.validate import ParamValidator

    shape = (
        botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    )
    for each in load("aws")["available_node_types"].values():
        asked = {**each["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(asked, shape).has_errors()
        assert set(asked) <= set(shape.members)


def test_machines_on_aws_are_known_by_their_role_and_workers_are_spot() -> None:
    config = load("aws")
    for name, each in config["available_node_types"].items():
        machine = each["node_config"]
        role = "forebrain-head" if name == "head" else "forebrain-worker"
        assert machine["IamInstanceProfile"] == {"Name": role}
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert (machine.get("InstanceMarketOptions") == {"MarketType": "spot"}) == (name != "head")


def test_ray_leaves_the_security_group_alone_that_was_made_beforehand() -> None:
    """Else it would let SSH from everywhere, which this shows too."""
    from types import SimpleNamespace

    from ray.autoscaler._private.aws.config import _upsert_security_group_rules

    opened: list[Any] = []
    for rules in ([{"FromPort": 22}], []):
        group = SimpleNamespace(
            id="sg-1", ip_permissions=rules, authorize_ingress=lambda **given: opened.append(given)
        )
        config = load("aws")
        assert config["provider"]["security_group"] == {"GroupName": "forebrain"}
        _upsert_security_group_rules(config, {"head": group})
        assert bool(opened) == (not rules)
    assert "0.0.0.0/0" in str(opened)


def test_machines_on_gcp_are_known_by_their_service_account_and_workers_are_spot() -> None:
    for name, each in load("gcp")["available_node_types"].items():
        machine = each["node_config"]
        (account,) = machine["serviceAccounts"]
        assert account["email"].startswith("forebrain-head@" if name == "head" else "forebrain-worker@")
        assert (machine.get("scheduling", {}).get("provisioningModel") == "SPOT") == (name != "head")


@pytest.mark.parametrize("role", ["head", "worker"])
def test_policies_name_actions_that_exist_and_only_the_project_s_things(role: str) -> None:
    import botocore.session

    policy = json.loads((CLUSTER / "iam" / f"aws-{role}.json").read_text())
    session = botocore.session.get_session()
    for statement in policy["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        actions = statement["Action"]
        for action in [actions] if isinstance(actions, str) else actions:
            service, name = action.split(":")
            assert "*" not in name
            # Permissions of S3 and of passing a role are no requests of that name.
            if service not in ("s3", "iam"):
                assert name in session.get_service_model(service).operation_names
    everywhere = {s["Sid"] for s in policy["Statement"] if s["Resource"] == "*" and "Condition" not in s}
    assert everywhere == ({"SeeMachines", "StartMachines"} if role == "head" else {"TheImage"})


def test_a_field_that_ray_does_not_know_is_refused() -> None:
    """That the check above checks."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    config = copy.deepcopy(prepared("aws"))
    config["available_node_types"]["gpu"]["spot"] = True
    with pytest.raises(ValidationError):
        validate_config(config)
