"""What web workers and gateways share of HTTP: routes, the rules of a head, headers of answers, compression."""
