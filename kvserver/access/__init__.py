"""Authentication and authorization: tokens, what they grant, and tickets for browsers.

- `grants`: the rights of a token's bearer (pure)
- `tokenfile`: the token file: what it says, and whether it is valid
- `trust`: whether only its owner could have written that file
- `tokenedit`: edits of that file that keep its style
- `tokens`: the tokens in effect: the supervisor publishes them in the run directory, web workers and gateways follow
- `tickets`: short-lived substitutes for a token, where no header can be sent
- `delegation`: a part of a token's rights that its bearer hands on for minutes, signed
- `cuts`: which cuts of prefix deletes were disclosed to which token

No token and no ticket is ever written anywhere: files and processes hold only their SHA-256, and signed grants are with
their bearer alone.
"""
