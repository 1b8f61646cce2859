"""The steps of the runbooks as Prefect tasks: each unpacks, calls one function of pgferry, and logs one line."""
