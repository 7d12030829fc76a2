"""A KServe InferenceService that runs the image of the Dockerfile."""

import re

import yaml

from detexport.artifact import Artifact

PORT = 8000


def manifest(artifact: Artifact, name: str, *, shutdown_s: int) -> str:
    """Return the manifest as YAML.

    The image's name has no registry: push it where the cluster finds it, and write its full name here.

    Args:
        artifact: what is served.
        name: the model's name; Kubernetes's restrictions are applied to it.
        shutdown_s: time that a container has to finish the requests that it accepted.
    """

    def probe(path: str, period_s: int) -> dict[str, object]:
        return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": period_s, "timeoutSeconds": 5}

    container = {
        "name": "kserve-container",
        "image": image_name(artifact, name),
        "ports": [{"containerPort": PORT, "protocol": "TCP"}],
        "readinessProbe": probe("/health/ready", 5),
        "livenessProbe": probe("/health/live", 10),
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}},
    }
    document = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": dns_label(name), "annotations": {"detexport/artifact-sha256": artifact.sha256}},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "terminationGracePeriodSeconds": shutdown_s + 10,
                "containers": [container],
            }
        },
    }
    return yaml.safe_dump(document, sort_keys=False)


def image_name(artifact: Artifact, name: str) -> str:
    """Return the name and tag of the container's image: the tag is the artifact's digest."""
    return f"{dns_label(name)}:{artifact.sha256[:12]}"


def dns_label(name: str) -> str:
    """Return a name as Kubernetes takes it: lower case letters, digits and hyphens, at most 63."""
    label = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"model-{label}"
    return label[:63].rstrip("-")
