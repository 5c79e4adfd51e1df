"""The schemas of bodies, against what reads them."""

from __future__ import annotations

import json

from kvserver.api import batches
from kvserver.api.scan.steps import run_at_once
from tests.unit.kvserver.description.document import DOCUMENT


def test_examples_of_batches_are_read() -> None:
    media = DOCUMENT["paths"]["/v1/batch"]["post"]["requestBody"]["content"]["application/json"]
    envelope = run_at_once(batches.JSON.read_envelope(json.dumps(media["example"]).encode()))
    for index, raw in enumerate(envelope.ops):
        batches.JSON.read_operation(index, raw, 1)
