"""configs/kuberay/rayservice.yaml: Ray Serve takes it, and its pods hold what it asks for.

Its fields are checked with those of the other files, in test_deploy_files.py.
"""

from importlib import import_module
from typing import Any

import pytest
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from pipeline.config import RunConfig, load_config
from pipeline.serving.ray_serve import Arguments, cpus_of_replica, options_of
from pipeline.web.guard import SERVE_TOKEN
from tests.project.test_deploy_files import amount, documents
from tests.support.demo import ROOT

(FILE,) = documents("rayservice.yaml")
CLUSTER = FILE["spec"]["rayClusterConfig"]
(REPLICAS,) = CLUSTER["workerGroupSpecs"]
DEPLOYED = ServeDeploySchema.model_validate(yaml.safe_load(FILE["spec"]["serveConfigV2"]))
(APPLICATION,) = DEPLOYED.applications
ARGUMENTS = Arguments.model_validate(
    APPLICATION.args | {"config": APPLICATION.args["config"].replace("/app", str(ROOT))}
)


def containers() -> list[dict[str, Any]]:
    groups = [CLUSTER["headGroupSpec"], REPLICAS]
    return [one for group in groups for one in group["template"]["spec"]["containers"]]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> RunConfig:
    """What a replica is made of, with the variables of its pod."""
    for container in containers():
        for variable in container["env"]:
            monkeypatch.setenv(variable["name"], variable.get("value", "a-token"))
    found = load_config(ARGUMENTS.config, ARGUMENTS.settings)
    assert caplog.records == []  # each variable is a key, or the token
    return found


def test_the_import_path_builds_the_application(config: RunConfig) -> None:
    module, _, name = APPLICATION.import_path.partition(":")
    build = getattr(import_module(module), name)
    assert isinstance(build(ARGUMENTS), serve.Application)
    assert APPLICATION.route_prefix == "/"  # the paths are those of one process


def test_every_pod_knows_the_model_and_the_token(config: RunConfig) -> None:
    for container in containers():
        names = {one["name"] for one in container["env"]}
        assert names == {"SENSEVOICE_MODEL", "SENSEVOICE_VAD", SERVE_TOKEN}
    assert (config.model.partition("://")[0], config.vad.partition("://")[0]) == ("s3", "s3")
    assert config.service.host_names == ("*",)


def test_others_reach_the_proxies_at_the_port_of_the_pods() -> None:
    options = DEPLOYED.http_options
    (port,) = [one for one in containers()[0]["ports"] if one["name"] == "serve"]
    assert (options.host, options.port) == ("0.0.0.0", port["containerPort"])
    assert DEPLOYED.proxy_location == "EveryNode"


def test_a_pod_holds_one_replica_and_there_is_a_pod_for_each(config: RunConfig) -> None:
    scaling = options_of(config)["autoscaling_config"]
    assert (REPLICAS["minReplicas"], REPLICAS["maxReplicas"]) == (
        scaling.min_replicas,
        scaling.max_replicas,
    )
    assert amount(REPLICAS, "cpu") == cpus_of_replica(config)
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_pod_finishes_what_is_under_way(config: RunConfig) -> None:
    pod = REPLICAS["template"]["spec"]
    (container,) = pod["containers"]
    waits_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > waits_s + config.service.drain_s


def test_it_names_the_ray_and_the_image_of_the_runs() -> None:
    run = documents("rayjob.yaml")[0]["spec"]["rayClusterSpec"]
    (head,) = run["headGroupSpec"]["template"]["spec"]["containers"]
    assert CLUSTER["rayVersion"] == run["rayVersion"]
    assert {one["image"] for one in containers()} == {head["image"]}
