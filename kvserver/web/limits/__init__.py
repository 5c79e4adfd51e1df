"""What clients may take of a web worker, and who takes how much.

| module | what is in it |
| --- | --- |
| `address_quotas` | what one address, or one token, holds of a worker, and the limits of it |
| `load` | what all connections of a worker hold together: requests in flight, bytes of requests and of answers |
| `peer` | the client of one connection: its address, and what it holds before its request is whole |
| `charge` | what one request adds to these, until it has its answer |
"""
