"""What is reported of answered requests.

| module | what is in it |
| --- | --- |
| `counting` | figures for Prometheus |
| `access_log` | a line for each request, if it is asked for |
"""
