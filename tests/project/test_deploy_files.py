"""Kubernetes, AWS, Docker and Grafana files: as far as they can be checked without a cluster.

KubeRay's field names: https://docs.ray.io/en/master/cluster/kubernetes/references/api.html (1.6.2)
and ray-operator/apis/ray/v1/*_types.go; only those that we use, so that a typo is an unknown field.
Pod templates were also checked once against the models of the Kubernetes Python client 37.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from ray._private.runtime_env.validation import parse_and_validate_excludes
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from jobs.__main__ import COMMANDS
from pipeline.config import RunConfig, ServiceConfig, load_config
from pipeline.flow.telemetry import COUNTERS, GAUGES, MODEL_COUNTERS
from pipeline.serving.app import create_app
from pipeline.serving.service import Service
from pipeline.training.settings import load_finetune_config
from pipeline.web.guard import Message
from tests.support.demo import ROOT

CONFIGS = ROOT / "configs"
KUBERAY = CONFIGS / "kuberay"
DASHBOARD = json.loads((CONFIGS / "grafana" / "dashboard.json").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

OURS = {*COUNTERS, *MODEL_COUNTERS, *GAUGES}
TAGS = {name: tags for name, (_, tags) in (COUNTERS | MODEL_COUNTERS).items()}

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
NAME: Schema = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|[KMGT]i?)?$"}
CRON: Schema = {"type": "string", "pattern": r"^[\d*/,-]+( [\d*/,-]+){4}$"}


def strict(required: str = "", **fields: Schema) -> Schema:
    """An object that has these fields and no other."""
    return {
        "type": "object",
        "properties": fields,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


AMOUNTS: Schema = {
    "type": "object",
    "properties": {"cpu": QUANTITY, "memory": QUANTITY, "nvidia.com/gpu": QUANTITY},
    "additionalProperties": False,
}
RESOURCES = strict("requests limits", requests=AMOUNTS, limits=AMOUNTS)
EXEC = strict("command", command=many(TEXT))
OFTEN = {"periodSeconds": COUNT, "timeoutSeconds": COUNT, "failureThreshold": COUNT}
HTTP_GET = strict("path port", path={"pattern": "^/"}, port=NAME)
PROBE: Schema = {
    "anyOf": [strict("exec", exec=EXEC, **OFTEN), strict("httpGet", httpGet=HTTP_GET, **OFTEN)]
}
SECRET = strict("secretKeyRef", secretKeyRef=strict("name key", name=NAME, key=TEXT))
VARIABLE: Schema = {
    "anyOf": [
        strict("name value", name=TEXT, value=TEXT),
        strict("name valueFrom", name=TEXT, valueFrom=SECRET),
    ]
}
CONTAINER = strict(
    "name image resources",
    name=NAME,
    image=TEXT,
    command=many(TEXT),
    args=many(TEXT),
    ports=many(strict("name containerPort", name=NAME, containerPort=COUNT)),
    env=many(VARIABLE),
    resources=RESOURCES,
    lifecycle=strict("preStop", preStop=strict("exec", exec=EXEC)),
    startupProbe=PROBE,
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    volumeMounts=many(
        strict("name mountPath", name=NAME, mountPath={"pattern": "^/"}, readOnly=FLAG)
    ),
)
VOLUME = strict(
    "name",
    name=NAME,
    emptyDir=strict(medium={"const": "Memory"}, sizeLimit=QUANTITY),
    configMap=strict("name", name=NAME),
)
POD = strict(
    "spec",
    metadata=strict(annotations=TEXTS, labels=TEXTS),
    spec=strict(
        "containers",
        serviceAccountName=NAME,
        enableServiceLinks=FLAG,
        restartPolicy={"enum": ["Never", "OnFailure"]},
        terminationGracePeriodSeconds=COUNT,
        tolerations=many(strict("key", key=TEXT, operator=TEXT, effect=TEXT)),
        containers=many(CONTAINER),
        volumes=many(VOLUME),
    ),
)
WORKERS = strict(
    "groupName minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    replicas=COUNT,
    rayStartParams=TEXTS,
    template=POD,
)
CLUSTER = strict(
    "rayVersion headGroupSpec workerGroupSpecs",
    rayVersion=TEXT,
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=strict(
        version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT, resources=RESOURCES
    ),
    authOptions=strict("mode", mode={"enum": ["disabled", "token"]}),
    headGroupSpec=strict("template", rayStartParams=TEXTS, template=POD),
    workerGroupSpecs=many(WORKERS),
)
JOB = strict(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    runtimeEnvYAML=TEXT,
    rayClusterSpec=CLUSTER,
)
NAMED: dict[str, Schema] = {"kind": TEXT, "name": NAME}
ACCOUNT = strict("kind name", kind={"const": "ServiceAccount"}, name=NAME)
ROLE_REF = strict("apiGroup kind name", apiGroup=TEXT, kind={"const": "Role"}, name=NAME)
RULE = strict(
    "apiGroups resources verbs", apiGroups=many(TEXT), resources=many(TEXT), verbs=many(TEXT)
)
SERVICE = strict("serveConfigV2 rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=CLUSTER)
LABELS = strict("matchLabels", matchLabels=TEXTS)
SCALED = strict("apiVersion kind name", apiVersion=TEXT, kind=TEXT, name=NAME)
KINDS: dict[tuple[str, str], Schema] = {
    ("apps/v1", "Deployment"): strict(
        "spec",
        spec=strict(
            "selector template",
            replicas=COUNT,
            selector=LABELS,
            strategy=strict(
                "type rollingUpdate",
                type={"const": "RollingUpdate"},
                rollingUpdate=strict("", maxUnavailable=COUNT, maxSurge=COUNT),
            ),
            template=POD,
        ),
    ),
    ("v1", "Service"): strict(
        "spec",
        spec=strict(
            "selector ports",
            selector=TEXTS,
            ports=many(strict("port", name=NAME, port=COUNT, targetPort=NAME)),
        ),
    ),
    ("autoscaling/v2", "HorizontalPodAutoscaler"): strict(
        "spec",
        spec=strict(
            "scaleTargetRef maxReplicas",
            scaleTargetRef=SCALED,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            metrics=many(
                strict(
                    "type resource",
                    type={"const": "Resource"},
                    resource=strict(
                        "name target",
                        name={"enum": ["cpu", "memory"]},
                        target=strict(
                            "type", type={"const": "Utilization"}, averageUtilization=COUNT
                        ),
                    ),
                )
            ),
            behavior=strict(scaleDown=strict(stabilizationWindowSeconds=COUNT)),
        ),
    ),
    ("policy/v1", "PodDisruptionBudget"): strict(
        "spec", spec=strict("selector", minAvailable=COUNT, selector=LABELS)
    ),
    ("ray.io/v1", "RayJob"): strict("spec", spec=JOB),
    ("ray.io/v1", "RayService"): strict("spec", spec=SERVICE),
    ("ray.io/v1", "RayCronJob"): strict(
        "spec",
        spec=strict("schedule jobTemplate", schedule=CRON, timeZone=TEXT, jobTemplate=JOB),
    ),
    ("v1", "ServiceAccount"): strict(imagePullSecrets=many(strict("name", name=NAME))),
    ("kustomize.config.k8s.io/v1beta1", "Kustomization"): strict(
        "resources",
        namespace=NAME,
        resources=many(TEXT),
        images=many(strict("name newName newTag", name=TEXT, newName=TEXT, newTag=TEXT)),
        patches=many(strict("target patch", target=strict("kind name", **NAMED), patch=TEXT)),
    ),
    ("rbac.authorization.k8s.io/v1", "Role"): strict("rules", rules=many(RULE)),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): strict(
        "roleRef subjects", roleRef=ROLE_REF, subjects=many(ACCOUNT)
    ),
    ("batch/v1", "CronJob"): strict(
        "spec",
        spec=strict(
            "schedule concurrencyPolicy jobTemplate",
            schedule=CRON,
            timeZone=TEXT,
            concurrencyPolicy={"const": "Forbid"},
            startingDeadlineSeconds=COUNT,
            successfulJobsHistoryLimit=COUNT,
            failedJobsHistoryLimit=COUNT,
            jobTemplate=strict(
                "spec",
                spec=strict(
                    "template", backoffLimit=COUNT, activeDeadlineSeconds=COUNT, template=POD
                ),
            ),
        ),
    ),
}


def documents(name: str) -> list[dict[str, Any]]:
    """The objects of a file in configs/kuberay, or of one that is named from there."""
    return list(yaml.safe_load_all((KUBERAY / name).read_text(encoding="utf-8")))


RAYJOB = documents("rayjob.yaml")[0]["spec"]
CRONJOB = documents("cronjob.yaml")[-1]["spec"]
CLUSTER_SPEC = RAYJOB["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER_SPEC["workerGroupSpecs"]}
AWS = yaml.safe_load((CONFIGS / "cluster" / "aws.yaml").read_text(encoding="utf-8"))
BASE = documents("kustomization.yaml")[0]
OVERLAY = documents("../overlay/kustomization.yaml")[0]
FILES = [*sorted(path.name for path in KUBERAY.glob("*.yaml")), "../overlay/kustomization.yaml"]
METADATA = strict("name", name=NAME, labels=TEXTS, annotations=TEXTS)


@pytest.mark.parametrize("name", FILES)
def test_kubernetes_objects_have_known_fields_of_the_right_type(name: str) -> None:
    for document in documents(name):
        kind = document.pop("apiVersion"), document.pop("kind")
        if kind[1] != "Kustomization":
            jsonschema.validate(document.pop("metadata"), METADATA)
        jsonschema.validate(document, KINDS[kind])


def test_the_check_finds_a_misspelt_field() -> None:
    spec = json.loads(json.dumps(RAYJOB))
    spec["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 4
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(spec, JOB)


def config_of(command: str) -> RunConfig:
    """What a command that the files name would run, /app being the image's copy of the project."""
    python, flag, module, config, *settings = shlex.split(command)
    assert (python, flag) == ("python", "-m")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    return load_config(config.replace("/app", str(ROOT)), settings[1::2])


def test_the_entry_points_name_a_job_and_a_config_of_ours() -> None:
    assert config_of(RAYJOB["entrypoint"]).error_exit_code == 0


def test_the_scheduled_run_is_the_one_that_runs_by_hand() -> None:
    assert documents("raycronjob.yaml")[0]["spec"]["jobTemplate"] == RAYJOB
    (container,) = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    assert f"kubectl create -f {mount['mountPath']}/rayjob.yaml" in container["args"][0]


def test_the_schedule_creates_the_run_and_no_account() -> None:
    (container,) = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (key, value) = re.findall(r"--selector (\w+)=([\w-]+)", container["args"][0])[0]
    labels = {one["kind"]: one["metadata"].get("labels", {}) for one in based_on()}
    assert labels == {"RayJob": {key: value}, "ServiceAccount": {}}


def test_the_schedule_outlives_the_run_that_it_waits_for() -> None:
    waits_s = CRONJOB["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert waits_s > RAYJOB["activeDeadlineSeconds"]


KUBECTL = """#!/bin/bash
echo "$*" >> {log}
case "$*" in
  get*) [[ -s {state} ]] && echo -n "sensevoice $(cat {state})" ;;
  create*) echo -n {ends} > {state} ;;
  delete*) echo -n > {state} ;;
esac
"""


@pytest.mark.parametrize(
    ("before", "ends", "calls", "returncode"),
    [
        ("", "Complete", ["create"], 0),
        ("", "Failed", ["create"], 1),
        ("Failed", "Complete", ["delete", "create"], 0),
        ("Running", "", [], 0),
    ],
)
def test_the_schedule_starts_one_run_and_never_a_second_beside_it(
    before: str, ends: str, calls: list[str], returncode: int, tmp_path: Path
) -> None:
    log, state = tmp_path / "log", tmp_path / "state"
    state.write_text(before)
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(log=log, state=state, ends=ends))
    kubectl.chmod(0o755)
    (container,) = CRONJOB["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    done = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        timeout=20,
        check=False,
    )
    assert done.returncode == returncode
    verbs = [line.split()[0] for line in log.read_text().splitlines()]
    assert [verb for verb in verbs if verb != "get"] == calls


def based_on() -> list[dict[str, Any]]:
    """The objects that the overlay edits."""
    return [document for name in BASE["resources"] for document in documents(name)]


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """The specs of all pods below a node of a document."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


PODS = [(name, pod) for name in FILES for document in documents(name) for pod in pods(document)]


def test_every_pod_has_an_account_that_a_file_defines() -> None:
    accounts = {
        document["metadata"]["name"]
        for name in FILES
        for document in documents(name)
        if document["kind"] == "ServiceAccount"
    }
    assert len(PODS) == 12
    assert {pod["serviceAccountName"] for _, pod in PODS} == accounts


def test_no_pod_gets_the_variables_of_other_services() -> None:
    assert all(pod["enableServiceLinks"] is False for _, pod in PODS)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycronjob.yaml"])
def test_every_variable_of_the_manifests_is_a_key_of_the_config(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = [
        variable
        for file, pod in PODS
        if file == name
        for container in pod["containers"]
        for variable in container.get("env", [])
    ]
    for variable in found:
        monkeypatch.setenv(variable["name"], variable["value"])
    config = load_config(CONFIGS / "demo.yaml")
    assert caplog.records == []
    assert {one["value"] for one in found} == {
        *(config.manifest, config.output, config.model, config.vad)
    }


SERVED = {document["kind"]: document for document in documents("serve.yaml")}
(SERVE,) = SERVED["Deployment"]["spec"]["template"]["spec"]["containers"]


def test_the_service_runs_a_command_of_ours_that_may_be_public(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    python, flag, package, command, path, *settings = SERVE["args"]
    assert (python, flag, package) == ("python", "-m", "jobs")
    assert command in COMMANDS
    for variable in SERVE["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "a-token"))
    config = load_config(path.replace("/app", str(ROOT)), settings[1::2])
    assert caplog.records == []  # each variable is a key, or the token
    assert {config.model, config.vad} <= {one.get("value") for one in SERVE["env"]}
    assert (config.service.host, config.service.host_names) == ("0.0.0.0", ("*",))
    assert {"containerPort": config.service.port, "name": "http"} in SERVE["ports"]
    cpus = config.ray.label_cpus + config.service.front_threads
    assert int(SERVE["resources"]["requests"]["cpu"]) == cpus


def test_the_service_finds_its_pods_and_they_finish_what_is_under_way() -> None:
    spec = SERVED["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    selectors = [SERVED["Service"]["spec"]["selector"], spec["selector"]["matchLabels"]]
    selectors.append(SERVED["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    assert selectors == [labels] * 3
    assert labels != documents("rayjob.yaml")[0]["metadata"]["labels"]
    assert "replicas" not in spec  # the autoscaler's
    target = SERVED["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = SERVED["Deployment"]
    assert target["name"] == deployment["metadata"]["name"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], "Deployment")
    (port,) = SERVE["ports"]
    assert [one["targetPort"] for one in SERVED["Service"]["spec"]["ports"]] == [port["name"]]
    waits_s = int(SERVE["lifecycle"]["preStop"]["exec"]["command"][1]) + ServiceConfig().drain_s
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > waits_s


def test_the_probes_of_the_service_ask_for_paths_that_need_no_token() -> None:
    app = create_app(Service(load_config(CONFIGS / "demo.yaml")), frozenset({"a-token"}))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    kinds = "startupProbe", "readinessProbe", "livenessProbe"
    probes = [SERVE[kind]["httpGet"]["path"] for kind in kinds]
    for path in (*probes, "/metrics"):
        headers = [(b"host", b"localhost:8000")]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers}
        asyncio.run(app(scope | {"query_string": b""}, receive, send))
    told = [message["status"] for message in sent if "status" in message]
    assert told == [503, 503, 200, 401]  # it is loading, but it lives


def test_the_image_holds_what_serves() -> None:
    text = (CONFIGS / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "--extra serve " in text


def value_at(document: Any, pointer: str) -> Any:
    """RFC 6901; raises LookupError for a place that is not there."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part) if isinstance(document, list) else part]
    return document


def test_the_overlay_edits_every_place_that_names_a_stranger() -> None:
    """Account, manifest, output, model and VAD by patches that fit; the image by its name."""
    edited = []
    for patch in OVERLAY["patches"]:
        (document,) = [
            one
            for one in based_on()
            if (one["kind"], one["metadata"]["name"]) == tuple(patch["target"].values())
        ]
        for step in yaml.safe_load(patch["patch"]):
            before = value_at(document, step["path"])
            if step["op"] == "test":
                assert before == step["value"]
            else:
                edited.append(before)
    (head,) = CLUSTER_SPEC["headGroupSpec"]["template"]["spec"]["containers"]
    (account,) = documents("serviceaccount.yaml")
    strangers = {variable["value"] for variable in head["env"]}
    assert set(edited) == strangers | set(account["metadata"]["annotations"].values())
    (image,) = OVERLAY["images"]
    assert {head["image"].rpartition(":")[0]} == {image["name"]}
    assert [(KUBERAY.parent / "overlay" / one).resolve() for one in OVERLAY["resources"]] == [
        KUBERAY
    ]


def test_kustomize_takes_the_overlay() -> None:
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl on this machine; it builds the overlay without a cluster")
    done = subprocess.run(
        ["kubectl", "kustomize", str(CONFIGS / "overlay")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    built = list(yaml.safe_load_all(done.stdout))
    assert {one["kind"] for one in built} == {"ServiceAccount", "RayJob"}
    (image,) = OVERLAY["images"]
    images = [one["image"] for pod in pods(built) for one in pod["containers"]]
    assert set(images) == {f"{image['newName']}:{image['newTag']}"}
    assert len(images) == 3
    assert "my-" not in done.stdout
    assert "123456789012" not in done.stdout


def amount(group: dict[str, Any], resource: str) -> int:
    (container,) = group["template"]["spec"]["containers"]
    return int(container["resources"]["requests"].get(resource, 0))


def test_the_groups_hold_exactly_what_the_config_asks_for() -> None:
    resources = config_of(RAYJOB["entrypoint"]).ray
    gpus = GROUPS["gpu"]["maxReplicas"] * amount(GROUPS["gpu"], "nvidia.com/gpu")
    cpus = GROUPS["cpu"]["maxReplicas"] * amount(GROUPS["cpu"], "cpu")
    assert gpus == resources.label_workers * resources.num_gpus
    assert cpus >= resources.segment_workers * (resources.segment_cpus + resources.decode_cpus)


def test_the_fine_tuning_has_a_gpu_for_every_worker_and_keeps_everything_in_the_store() -> None:
    spec = documents("finetune.yaml")[0]["spec"]
    python, flag, module, path, *settings = shlex.split(spec["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "jobs.finetune")
    config = load_finetune_config(path.replace("/app", str(ROOT)), settings[1::2])
    cluster = spec["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert config.ray.use_gpu
    assert group["replicas"] * amount(group, "nvidia.com/gpu") == config.ray.num_workers
    assert amount(group, "cpu") >= config.ray.cpus
    places = config.model, config.output, config.data.train, config.data.valid, config.data.replay
    assert all(str(place).startswith("s3://") for place in places)
    assert cluster["rayVersion"] == CLUSTER_SPEC["rayVersion"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_no_stage_runs_on_the_head_and_no_cpu_stage_fills_a_gpu_node() -> None:
    assert CLUSTER_SPEC["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert GROUPS["gpu"]["rayStartParams"]["num-cpus"] == "1"


def test_every_ray_container_has_probes_limits_and_one_image() -> None:
    groups = [CLUSTER_SPEC["headGroupSpec"], *CLUSTER_SPEC["workerGroupSpecs"]]
    containers = [one for group in groups for one in group["template"]["spec"]["containers"]]
    for container in containers:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        assert "memory" in container["resources"]["limits"]
    assert len({container["image"] for container in containers}) == 1


def test_the_object_store_has_memory_to_lie_in() -> None:
    for group in GROUPS.values():
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"


def test_the_files_name_the_ray_of_the_image() -> None:
    """The date in [tool.uv] gives the image and this environment the same version."""
    label = PROJECT["optional-dependencies"]["label"]
    (ray,) = [text for text in label if text.startswith("ray[")]
    assert CLUSTER_SPEC["rayVersion"] in SpecifierSet(ray.partition("]")[2])
    assert CLUSTER_SPEC["rayVersion"] == version("ray")


def test_the_runtime_environments_are_valid() -> None:
    path = CONFIGS / "cluster" / "runtime_env.yaml"
    submitted = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert parse_and_validate_excludes(submitted["excludes"])
    deployed = yaml.safe_load(RAYJOB["runtimeEnvYAML"])
    for environment in (submitted, deployed):
        assert RuntimeEnv(**environment)["env_vars"]
    assert deployed["env_vars"].items() <= submitted["env_vars"].items()


def test_the_launcher_takes_the_aws_cluster() -> None:
    validate_config(prepare_config(AWS))


def test_ec2_takes_the_nodes_of_the_aws_cluster() -> None:
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    for node in AWS["available_node_types"].values():
        request = node["node_config"] | {"MinCount": 1, "MaxCount": 1}
        report = botocore.validate.ParamValidator().validate(request, shape.input_shape)
        assert not report.has_errors(), report.generate_report()


def test_the_aws_cluster_has_a_gpu_for_every_label_worker() -> None:
    resources = load_config(CONFIGS / "s3_cluster.yaml").ray
    nodes = AWS["available_node_types"]
    assert nodes["gpu"]["max_workers"] * nodes["gpu"]["resources"]["GPU"] == resources.label_workers
    cpus = nodes["cpu"]["max_workers"] * nodes["cpu"]["resources"]["CPU"]
    assert cpus >= resources.segment_workers * (resources.segment_cpus + resources.decode_cpus)
    workers = sum(node.get("max_workers", 0) for node in nodes.values())
    assert AWS["max_workers"] >= workers
    assert nodes[AWS["head_node_type"]]["resources"] == {"CPU": 0}


def test_the_image_is_built_from_files_that_exist_for_a_python_that_works() -> None:
    text = (CONFIGS / "docker" / "Dockerfile").read_text(encoding="utf-8")
    for source in re.findall(r"^COPY (\S+) \S+$", text, re.MULTILINE):
        assert (ROOT / source).exists(), source
    (python,) = re.findall(r"^FROM python:(\d+\.\d+)", text, re.MULTILINE)
    assert f"{python}.0" in SpecifierSet(PROJECT["requires-python"])
    assert text.index("USER ray") > text.index("RUN useradd")
    assert "-r pyproject.toml --extra label " in text


def test_the_builder_gets_what_the_image_copies_and_nothing_else() -> None:
    text = (CONFIGS / "docker" / "Dockerfile").read_text(encoding="utf-8")
    copied = set(re.findall(r"^COPY (\S+) \S+$", text, re.MULTILINE))
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {one[1:] for one in patterns if one.startswith("!")} == copied


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    import ray.dashboard.modules.metrics.dashboards.default_dashboard_panels as panels

    of_ray = Path(panels.__file__).read_text(encoding="utf-8")
    for query in queries():
        for name in re.findall(r"\bray_\w+", query):
            ours = name.removeprefix("ray_")
            assert ours in OURS or f"{name}{{" in of_ray, name


def test_the_dashboard_shows_every_metric_of_ours() -> None:
    shown = set(re.findall(r"\bray_(sensevoice_\w+)", " ".join(queries())))
    assert shown == OURS


def test_the_dashboard_groups_by_labels_that_the_metrics_have() -> None:
    for query in queries():
        names = re.findall(r"\bray_(sensevoice_\w+)", query)
        used = {
            label
            for group in re.findall(r"by \(([^)]*)\)", query)
            for label in group.replace(" ", "").split(",")
        } | set(re.findall(r"[{,](\w+)=", query))
        tags = {tag for name in names for tag in TAGS.get(name, ())}
        assert not names or used <= tags | {"run_id"}, query


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
