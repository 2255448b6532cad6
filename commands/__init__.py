"""The `graft` console script: what DVC and Prefect lack, one small module a command."""
