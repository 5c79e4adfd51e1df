"""Who may do what: tokens, what they grant, and tickets for browsers.

`grants` is pure. The supervisor reads the file of tokens (`tokenfile`) if none could have written it who may not
(`trust`), checks it, and puts what is in effect into the run directory; web workers and gateways follow that
(`tokens`). `tickets` stand for a token where no header can be sent.
No token and no ticket is ever written anywhere: files and processes know their SHA-256 alone.
"""
