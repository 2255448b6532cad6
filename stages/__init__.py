"""The seven stages of the pipeline, one module each; `core` is their logic, `store` their files."""
