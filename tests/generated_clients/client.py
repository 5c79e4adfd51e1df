"""Stores and reads a value by what openapi-python-client made."""

import sys
from io import BytesIO

from kvserver_client import Client
from kvserver_client.api.one_key import get_v1_kv_key, put_v1_kv_key
from kvserver_client.types import File

client = Client(base_url=sys.argv[1])
stored = put_v1_kv_key.sync_detailed("generated/python", client=client, body=File(payload=BytesIO(b"dark")))
assert stored.status_code == 201, stored
read = get_v1_kv_key.sync("generated/python", client=client)
assert isinstance(read, File), read
print(read.payload.read().decode())
