"""The cluster to try (deploy/qdrant/compose.yaml) is what the runbook of docs/qdrant.md works on."""

from pathlib import Path

import yaml

COMPOSE = Path(__file__).parents[3] / "deploy" / "qdrant" / "compose.yaml"


def test_every_node_keeps_its_data_and_its_snapshots_in_volumes_of_its_own():
    content = yaml.safe_load(COMPOSE.read_text())
    mounted = [mount.split(":") for node in content["services"].values() for mount in node["volumes"]]
    assert [place for _, place in mounted] == ["/qdrant/storage", "/qdrant/snapshots"] * len(content["services"])
    assert sorted(name for name, _ in mounted) == sorted(content["volumes"])
